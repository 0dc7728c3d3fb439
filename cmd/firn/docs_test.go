package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands calls f with every command of ours.
func commands(f func(*cobra.Command)) {
	a := &app{environ: nil}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		f(c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.rootCommand())
}

// TestHelp holds every command to what a newcomer needs.
func TestHelp(t *testing.T) {
	n := 0
	commands(func(c *cobra.Command) {
		n++
		where := c.CommandPath()
		switch {
		case c.Short == "" || strings.HasSuffix(c.Short, "."):
			t.Errorf("%s: a short help without a full stop is wanted, have %q", where, c.Short)
		case c.Name() != "version" && (c.Long == "" || c.Example == ""):
			t.Errorf("%s: has no long help or no example", where)
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len([]rune(line)) > 100 {
				t.Errorf("%s: this line is too long for a terminal: %s", where, line)
			}
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if name, usage := pflag.UnquoteUsage(f); name == "stringArray" || name == "int32Slice" || usage == "" {
				t.Errorf("%s --%s: value %q, help %q", where, f.Name, name, usage)
			}
		})
	})
	if n < 25 {
		t.Errorf("only %d commands were looked at", n)
	}
}

func TestPageIsCurrent(t *testing.T) {
	const page = "../../docs/cli.md"
	want := cliMarkdown()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/cli.md is not current: go test ./cmd/firn -run Page -update")
	}
}

func cliMarkdown() string {
	var b strings.Builder
	b.WriteString(`# The command line

This page is generated from the commands; a test fails when it is not current
(` + "`go test ./cmd/firn -run Page -update`" + ` writes it). ` + "`firn COMMAND --help`" + ` says the same.

## For all commands

- ` + "`--output json`" + ` (` + "`-o json`" + `) prints results as JSON on standard output, with field names that stay. Commands
  that stream (` + "`consume`, `log dump`" + `) print one object per line. An error is then one JSON object on standard
  error: ` + "`{\"error\": …, \"hint\": …, \"exitCode\": …}`" + `. In listings -1 stands for "not known" or "none".
- ` + "`--brokers HOST:PORT`" + ` (` + "`-b`, `FIRN_BROKERS`" + `) says where the cluster is, 127.0.0.1:9092 if nothing is said.
- Completion for shells: ` + "`firn completion`" + `; it knows the topics, groups and configs of a running broker.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed: a broker refused it, a file is damaged, the output could not be written … |
| 2 | wrong flags, arguments or configuration; nothing was done |
| 3 | the broker cannot be reached |
| 4 | the data folder is in use by another firn (` + "`start`" + `) |
| 130 | stopped by a second signal before a clean stop was done (` + "`start`" + `) |
`)
	commands(func(c *cobra.Command) {
		if c.HasSubCommands() {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```text\n%s\n```\n", c.CommandPath(), c.Short+".", strings.TrimSpace(c.UseLine()))
		if c.Long != "" {
			fmt.Fprintf(&b, "\n```text\n%s\n```\n", c.Long)
		}
		if c.Name() == "start" || c.Flags().Lookup("data") != nil {
			b.WriteString("\nIts flags are the settings: see [configuration.md](configuration.md).\n")
		} else {
			flags(&b, c)
		}
		if c.Example != "" {
			fmt.Fprintf(&b, "\n```sh\n%s\n```\n", strings.ReplaceAll(strings.TrimPrefix(c.Example, "  "), "\n  ", "\n"))
		}
	})
	return b.String()
}

func flags(b *strings.Builder, c *cobra.Command) {
	var rows []string
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" || f.Name == "brokers" {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		short := ""
		if f.Shorthand != "" {
			short = ", `-" + f.Shorthand + "`"
		}
		if name != "" {
			name = " " + name
		}
		rows = append(rows, fmt.Sprintf("| `--%s%s`%s | %s |", f.Name, name, short, strings.ReplaceAll(usage, "|", "\\|")))
	})
	if len(rows) > 0 {
		fmt.Fprintf(b, "\n| flag | |\n|---|---|\n%s\n", strings.Join(rows, "\n"))
	}
}
