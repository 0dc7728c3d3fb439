package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

// deletes completes a command that deletes what its arguments name, each once,
// after a question at a terminal. With says what goes along.
func (a *app) deletes(with string, del func(ctx context.Context, adm *kadm.Client, names []string) error, cmd *cobra.Command) *cobra.Command {
	var yes bool
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		names = unique(names)
		if err := a.confirm(yes, "Delete "+strings.Join(names, ", ")+" "+with+"?"); err != nil {
			return err
		}
		ctx, adm, done, err := a.admin(cmd.Context())
		if err != nil {
			return err
		}
		defer done()
		return del(ctx, adm, names)
	}
	addYes(cmd, &yes)
	return cmd
}

func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
}

// confirm asks at a terminal; otherwise, or with yes, the answer is yes.
func (a *app) confirm(yes bool, question string) error {
	if yes || !terminal(a.in) || !terminal(a.err) {
		return nil
	}
	fmt.Fprintf(a.err, "%s This cannot be undone. [y/N] ", question)
	var answer string
	_, _ = fmt.Fscanln(a.in, &answer) // no answer is no
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return failf("", "nothing was deleted")
	}
	return nil
}

func unique(names []string) []string {
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
