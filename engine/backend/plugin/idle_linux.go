package plugin

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// dropProgram unmaps the pages of the program's own file that were never
// written, for the kernel to map again as they are used. The mappings stay.
func dropProgram() {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	var from, to uintptr
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		key, value, _ := strings.Cut(line, " ")
		switch {
		case !strings.HasSuffix(key, ":"): // a mapping begins
			from, to = 0, 0
			perms, _, _ := strings.Cut(value, " ")
			if (perms == "r-xp" || perms == "r--p") && strings.HasSuffix(line, " "+self) {
				if n, _ := fmt.Sscanf(key, "%x-%x", &from, &to); n != 2 {
					from, to = 0, 0
				}
			}
		case key == "Anonymous:" && strings.TrimSpace(value) == "0 kB" && from != 0:
			// Dropping a page that was written, a relocation say, would lose it.
			// Nothing is lost here, so there is nothing to do about an error.
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, from, to-from, syscall.MADV_DONTNEED)
		}
	}
}
