package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// commandTime bounds a command of the system that is not known to be long.
const commandTime = 2 * time.Minute

// Run runs a command of the system and gives its standard output. When it
// fails, the error has its standard error, and is an *ExitError where the
// command ended with another code than 0.
type Run func(ctx context.Context, name string, args ...string) (stdout []byte, err error)

// ExitError says that a command of the system ended with another code than 0.
type ExitError struct {
	Command string
	Code    int    // -1 when a signal ended it
	Stderr  string // its last lines
}

func (e *ExitError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("%s: exit code %d", e.Command, e.Code)
	}
	return fmt.Sprintf("%s: exit code %d: %s", e.Command, e.Code, e.Stderr)
}

// System runs commands on this machine, each for two minutes at most, or as
// long as ctx lasts.
func System(ctx context.Context, name string, args ...string) ([]byte, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, commandTime)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second // for children that hold the pipes
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	line := name + " " + strings.Join(args, " ")
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		said := strings.TrimSpace(stderr.String())
		if len(said) > 2000 {
			said = "…" + said[len(said)-2000:]
		}
		return stdout.Bytes(), &ExitError{Command: line, Code: exit.ExitCode(), Stderr: said}
	}
	if err != nil && ctx.Err() != nil {
		return stdout.Bytes(), fmt.Errorf("%s: not done in time: %w", line, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", line, err)
	}
	return stdout.Bytes(), nil
}

// exited says whether a command ended with that code.
func exited(err error, code int) bool {
	e, ok := errors.AsType[*ExitError](err)
	return ok && e.Code == code
}
