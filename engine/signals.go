package engine

import (
	"strconv"
	"strings"
)

// signals are Linux's, by number, on every host: a Windows or VM backend maps
// the names to what it has.
var signals = map[string]int{
	"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGBUS": 7, "SIGFPE": 8,
	"SIGKILL": 9, "SIGUSR1": 10, "SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15,
	"SIGSTKFLT": 16, "SIGCHLD": 17, "SIGCONT": 18, "SIGSTOP": 19, "SIGTSTP": 20, "SIGTTIN": 21, "SIGTTOU": 22,
	"SIGURG": 23, "SIGXCPU": 24, "SIGXFSZ": 25, "SIGVTALRM": 26, "SIGPROF": 27, "SIGWINCH": 28, "SIGIO": 29,
	"SIGPWR": 30, "SIGSYS": 31, "SIGRTMIN": sigRTMin, "SIGRTMAX": sigRTMax,
}

// aliases are second names.
var aliases = map[string]string{"SIGIOT": "SIGABRT", "SIGCLD": "SIGCHLD", "SIGPOLL": "SIGIO"}

const (
	sigRTMin = 34
	sigRTMax = 64
)

// signal is one signal: its number and its canonical name.
type signal struct {
	num  int
	name string
}

var (
	sigKill = signal{9, "SIGKILL"}
	sigTerm = signal{15, "SIGTERM"}
)

// parseSignal reads 9, KILL, SIGKILL, sigkill, RTMIN+3, SIGRTMAX-1.
func parseSignal(s string) (signal, error) {
	bad := invalid("invalid signal: %s", s)
	if n, err := strconv.Atoi(s); err == nil {
		return signalOf(n, bad)
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if a, ok := aliases[name]; ok {
		name = a
	}
	if n, ok := signals[name]; ok {
		return signalOf(n, bad)
	}
	for base, sign := range map[string]int{"SIGRTMIN+": 1, "SIGRTMAX-": -1} {
		if off, ok := strings.CutPrefix(name, base); ok {
			n, err := strconv.ParseUint(off, 10, 8)
			if err != nil {
				return signal{}, bad
			}
			num := signals[base[:len(base)-1]] + sign*int(n)
			if num < sigRTMin {
				return signal{}, bad
			}
			return signalOf(num, bad)
		}
	}
	return signal{}, bad
}

func signalOf(n int, bad error) (signal, error) {
	if n >= sigRTMin && n <= sigRTMax {
		if n == sigRTMin {
			return signal{n, "SIGRTMIN"}, nil
		}
		return signal{n, "SIGRTMIN+" + strconv.Itoa(n-sigRTMin)}, nil
	}
	for name, num := range signals {
		if num == n {
			return signal{n, name}, nil
		}
	}
	return signal{}, bad
}
