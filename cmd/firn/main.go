// Command firn is the broker and its command line: one file per command.
// Commands read flags, call the packages that do the work and print what
// comes back; anything that decides something belongs into those packages.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker (see the Makefile).
var version = "dev"

// Exit codes; docs/cli.md lists them.
const (
	exitFailed      = 1   // the command did not do what it was told
	exitUsage       = 2   // flags, arguments or configuration are wrong; nothing was done
	exitUnreachable = 3   // the broker cannot be reached
	exitLocked      = 4   // another firn uses the data folder
	exitForced      = 130 // stopped by a second signal before a clean stop was done
)

// failure is an error that knows the exit code and what the user could do.
type failure struct {
	err  error
	hint string // "" for none
	code int    // exit code
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func usageError(format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), code: exitUsage}
}

func failf(hint, format string, args ...any) error {
	return &failure{err: fmt.Errorf(format, args...), hint: hint, code: exitFailed}
}

// app is what all commands share: the three streams and the global flags.
type app struct {
	in       io.Reader
	out, err io.Writer
	environ  []string
	brokers  string
	output   string // text or json
}

func (a *app) json() bool { return a.output == outputJSON }

func main() { os.Exit(run()) }

// run is main with the exit code returned, for the test scripts.
func run() int {
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, environ: os.Environ()}
	root := a.rootCommand()
	// `firn start` does its own, gentler thing with signals.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return a.report(cmd, err)
}

// report prints err and gives the exit code.
func (a *app) report(cmd *cobra.Command, err error) int {
	code, hint := exitFailed, ""
	if f, ok := errors.AsType[*failure](err); ok {
		code, hint = f.code, f.hint
	} else if isCobraUsage(err) {
		code = exitUsage
	}
	if code == exitUsage && hint == "" && cmd != nil {
		hint = "see: " + cmd.CommandPath() + " --help"
	}
	if a.json() {
		out := struct {
			Error    string `json:"error"`
			Hint     string `json:"hint,omitempty"`
			ExitCode int    `json:"exitCode"`
		}{err.Error(), hint, code}
		enc := json.NewEncoder(a.err)
		enc.SetEscapeHTML(false)
		enc.Encode(out) // there is nowhere to report an error of stderr
		return code
	}
	fmt.Fprintf(a.err, "firn: %s\n", strings.ReplaceAll(err.Error(), "\n", "\nfirn: "))
	if hint != "" {
		fmt.Fprintf(a.err, "  %s\n", hint)
	}
	return code
}

// isCobraUsage recognises the errors of cobra itself, which have no type:
// an unknown command or a missing required flag.
func isCobraUsage(err error) bool {
	for _, p := range []string{"unknown command ", "required flag(s) ", "if any flags in the group "} {
		if strings.HasPrefix(err.Error(), p) {
			return true
		}
	}
	return false
}
