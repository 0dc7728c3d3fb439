package main

import "syscall"

// devChild says how a child is started: in a process group of its own, so that
// the terminal's signals do not reach it, and ended with this process, however
// that ends.
func devChild() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
