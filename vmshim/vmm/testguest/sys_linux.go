package main

import (
	"encoding/hex"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// addEntropy is what a clone's init must do before anything else.
func addEntropy(text string) error {
	seed, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var arg struct {
		bits, size int32
		seed       [32]byte
	}
	arg.bits, arg.size = int32(len(seed)*8), int32(copy(arg.seed[:], seed))
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&arg))); e != 0 {
		return e
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x5207, 0); e != 0 { // RNDRESEEDCRNG
		return e
	}
	return nil
}

// setUp gives an interface an IPv4 address, with the ioctls of old.
func setUp(name, addr string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ip := netip.MustParseAddr(addr).As4()
	if err := req.SetInet4Addr(ip[:]); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCSIFADDR, req); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}
