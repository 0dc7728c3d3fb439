package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/topicconfig"
)

// completionTimeout is how long the shell may wait for a broker when somebody
// presses Tab. Without an answer nothing is offered.
const completionTimeout = time.Second

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print what makes a shell complete commands",
		Long: `Print a script that makes a shell complete firn's commands, flags and, where a broker answers
within a second, the names of its topics, groups and configs (FIRN_BROKERS or --brokers says
where it is). To have it in every new shell:

  bash        firn completion bash > ~/.local/share/bash-completion/completions/firn
              (or, without the package bash-completion, the example below in ~/.bashrc)
  zsh         firn completion zsh > "${fpath[1]}/_firn"
              (needs "autoload -U compinit; compinit" in ~/.zshrc)
  fish        firn completion fish > ~/.config/fish/completions/firn.fish
  powershell  firn completion powershell >> $PROFILE`,
		Example: `  source <(firn completion bash)
  firn completion fish | source`,
		Args:              args(cobra.ExactArgs(1), "the name of a shell: bash, zsh, fish or powershell"),
		ValidArgsFunction: cobra.FixedCompletions([]string{"bash", "zsh", "fish", "powershell"}, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, given []string) error {
			root := cmd.Root()
			switch given[0] {
			case "bash":
				return writeBashCompletion(root, a.out)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.out)
			}
			return usageError("%s: choose bash, zsh, fish or powershell", given[0])
		},
	}
}

// bashWords replaces the one line of cobra's script that needs the package
// bash-completion: without it, words are what blanks part.
const (
	bashNeedsPackage = "    _get_comp_words_by_ref \"$@\" cur prev words cword\n"
	bashWords        = `    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local line=${COMP_LINE:0:COMP_POINT}
    read -r -a words <<< "$line"
    if [[ $line == *[[:blank:]] ]]; then
        words+=("")
    fi
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=${words[cword - 1]}
`
)

func writeBashCompletion(root *cobra.Command, out io.Writer) error {
	var script bytes.Buffer
	if err := root.GenBashCompletionV2(&script, true); err != nil {
		return err
	}
	_, err := io.WriteString(out, strings.Replace(script.String(), bashNeedsPackage, bashWords, 1))
	return err
}

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// offer asks the broker for names, within completionTimeout, and leaves out
// those that the command line has already.
func (a *app) offer(cmd *cobra.Command, given []string, names func(context.Context, *kgo.Client) []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	cl, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer cl.Close()
	all := slices.DeleteFunc(names(ctx, cl), func(n string) bool { return slices.Contains(given, n) })
	return all, cobra.ShellCompDirectiveNoFileComp
}

// one makes a completer for commands that take one argument.
func one(c completer) completer {
	return func(cmd *cobra.Command, given []string, part string) ([]string, cobra.ShellCompDirective) {
		if len(given) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c(cmd, given, part)
	}
}

func topicNames(ctx context.Context, cl *kgo.Client) []string {
	topics, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return nil
	}
	return topics.Names()
}

func groupNames(ctx context.Context, cl *kgo.Client) []string {
	groups, err := kadm.NewClient(cl).ListGroups(ctx)
	if err != nil {
		return nil
	}
	return groups.Groups()
}

func (a *app) completeTopics(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, given, topicNames)
}

func (a *app) completeOneTopic(cmd *cobra.Command, given []string, part string) ([]string, cobra.ShellCompDirective) {
	return one(a.completeTopics)(cmd, given, part)
}

// completeTopicFlag is for --topic, whose values are not the arguments.
func (a *app) completeTopicFlag(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, nil, topicNames)
}

func (a *app) completeGroups(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, given, groupNames)
}

func (a *app) completeOneGroup(cmd *cobra.Command, given []string, part string) ([]string, cobra.ShellCompDirective) {
	return one(a.completeGroups)(cmd, given, part)
}

func (a *app) completeGroupFlag(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, nil, groupNames)
}

// completeResources offers what has configs; group configs may be given to
// any group.
func (a *app) completeResources(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, given, func(ctx context.Context, cl *kgo.Client) []string {
		all, err := listResources(ctx, cl)
		if err != nil {
			return nil
		}
		var names []string
		for _, r := range all {
			names = append(names, r.String())
		}
		for _, g := range groupNames(ctx, cl) {
			names = append(names, "group/"+g)
		}
		slices.Sort(names)
		return slices.Compact(names)
	})
}

// completeConfigNames offers the names of the configs of the resource that is
// the first argument, each with suffix behind it. What all brokers have in
// common is named as the configs of one of them.
func (a *app) completeConfigNames(suffix string) completer {
	return func(cmd *cobra.Command, given []string, part string) ([]string, cobra.ShellCompDirective) {
		if len(given) == 0 || strings.Contains(part, "=") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		r, err := parseResource(given[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := a.offer(cmd, nil, func(ctx context.Context, cl *kgo.Client) []string {
			if r.String() == allBrokers {
				meta, err := kadm.NewClient(cl).BrokerMetadata(ctx)
				if err != nil || len(meta.Brokers) == 0 {
					return nil
				}
				r.name = fmt.Sprint(meta.Brokers[0].NodeID)
			}
			entries, err := a.describeConfigs(ctx, cl, r, nil, false)
			if err != nil {
				return nil
			}
			var names []string
			for _, e := range entries {
				if !e.ReadOnly {
					names = append(names, e.Name+suffix)
				}
			}
			return names
		})
		if suffix != "" {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return names, directive
	}
}

// completeTopicConfigs offers the names of all topic configs, from this
// binary's own table: the topic may not be there yet.
func completeTopicConfigs(suffix string) completer {
	return func(_ *cobra.Command, _ []string, part string) ([]string, cobra.ShellCompDirective) {
		if strings.Contains(part, "=") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, d := range topicconfig.Definitions() {
			names = append(names, d.Name+suffix)
		}
		directive := cobra.ShellCompDirectiveNoFileComp
		if suffix != "" {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return names, directive
	}
}
