package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firnlog/firn/broker/nearest"
)

const (
	outputText = "text"
	outputJSON = "json"
)

// section is one part of the overview that firn prints without a command.
type section struct {
	title    string
	commands []*cobra.Command
}

func (a *app) rootCommand() *cobra.Command {
	sections := []section{
		{"Run a broker, or several", []*cobra.Command{a.startCommand(), a.devCommand(), a.machineCommand()}},
		{"Produce and consume", []*cobra.Command{a.produceCommand(), a.consumeCommand()}},
		{"Look after topics and groups", []*cobra.Command{a.topicCommand(), a.groupCommand(), a.tierCommand()}},
		{"Look after the cluster", []*cobra.Command{a.clusterCommand(), a.configCommand(), a.apiVersionsCommand(), a.logCommand()}},
		{"Other", []*cobra.Command{a.completionCommand(), a.versionCommand()}},
	}
	root := group("firn", "A Kafka-compatible broker that keeps its history in object storage",
		`Firn is a broker that Kafka clients talk to. New records lie on local disk; sealed
segments move to object storage, where they stay readable by the same clients.

A first try, with one terminal for the broker and one for the rest:

  firn start
  firn topic create hello
  echo "hi there" | firn produce hello
  firn consume hello --until end`)
	root.Example = "  firn start"
	for _, s := range sections {
		root.AddCommand(s.commands...)
	}
	usual := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, given []string) {
		if cmd == root {
			a.overview(root, sections)
			return
		}
		usual(cmd, given)
	})
	root.CompletionOptions.DisableDefaultCmd = true
	root.SilenceUsage, root.SilenceErrors = true, true
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != outputText && a.output != outputJSON {
			bad := a.output
			a.output = outputText
			return usageError("--output %s: choose text or json", bad)
		}
		return nil
	}
	// Long flag texts are wrapped to fit a terminal.
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "FlagUsages | ", "FlagUsagesWrapped 100 | "))
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().StringVarP(&a.output, "output", "o", outputText, "how results are printed, `FORM`: text or json")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{outputText, outputJSON}, cobra.ShellCompDirectiveNoFileComp))
	root.SetFlagErrorFunc(flagError)
	return root
}

// overview is the help of firn itself: every command by what it is for, each
// with an example.
func (a *app) overview(root *cobra.Command, sections []section) {
	fmt.Fprintln(a.out, root.Long)
	for _, s := range sections {
		fmt.Fprintf(a.out, "\n%s:\n", s.title)
		for _, c := range s.commands {
			fmt.Fprintf(a.out, "  %-14s%s\n", c.Name(), c.Short)
			if example, _, _ := strings.Cut(strings.TrimSpace(c.Example), "\n"); example != "" {
				fmt.Fprintf(a.out, "  %-14s  %s\n", "", example)
			}
		}
	}
	fmt.Fprint(a.out, `
"firn COMMAND --help" says more, with all flags. For every command:
  -o, --output FORM        how results are printed: text or json
  -b, --brokers HOST:PORT  where the cluster is (or FIRN_BROKERS); 127.0.0.1:9092 if nothing is said

Exit codes: 0 done; 1 failed; 2 wrong flags, arguments or configuration; 3 the broker
cannot be reached; 4 the data folder is in use by another firn; 130 stopped by force.
`)
}

// group makes a command that only holds others.
func group(use, short, long string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			near := ""
			if n := nearest.Word(args[0], names); n != "" {
				near = "; did you mean " + n + "?"
			}
			return usageError("%s has no command %q%s", cmd.CommandPath(), args[0], near)
		},
	}
	cmd.AddCommand(sub...)
	return cmd
}

// flagError names the nearest flag when one is unknown.
func flagError(cmd *cobra.Command, err error) error {
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "unknown flag: --"); ok {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		if n := nearest.Word(name, known); n != "" {
			return usageError("unknown flag --%s; did you mean --%s?", name, n)
		}
		return usageError("unknown flag --%s", name)
	}
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usageError("--%s %s: %s", bad.GetFlag().Name, bad.GetValue(), wanted(bad))
	}
	return usageError("%s", msg)
}

// wanted says what a flag's value should have been.
func wanted(bad *pflag.InvalidValueError) string {
	switch kind := bad.GetFlag().Value.Type(); {
	case strings.Contains(kind, "int"): // int32, int32Slice
		if errors.Is(bad, strconv.ErrRange) {
			return "the number is too large or too small"
		}
		return "give a whole number"
	case kind == "duration":
		return "give a duration such as 500ms, 30s or 5m"
	case kind == "bool":
		return "give true or false, or the flag alone"
	}
	return bad.Unwrap().Error()
}

// args wraps an argument check so that its error counts as wrong usage, and
// says what is expected.
func args(check cobra.PositionalArgs, want string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := check(cmd, given); err != nil {
			return usageError("%s got %s; it takes %s", cmd.CommandPath(), countArgs(given), want)
		}
		return nil
	}
}

func countArgs(given []string) string {
	if len(given) == 0 {
		return "nothing"
	}
	return strings.Join(given, " ")
}

// env gives an environment variable, "" when it is not set.
func (a *app) env(name string) string {
	for _, kv := range a.environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			return v
		}
	}
	return ""
}

// terminal says whether stream is a terminal.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isTerminal(int(f.Fd()))
}
