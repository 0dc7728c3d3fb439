//go:build !linux

package main

import (
	"context"
	"errors"
	"os/exec"
)

// inNamespace exists on Linux only; the error comes from raiseLoopback.
func inNamespace(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "false", args...)
}

func raiseLoopback() error {
	return errors.New("the suites run in network namespaces, which only Linux has")
}
