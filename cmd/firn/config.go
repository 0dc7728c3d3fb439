package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firnlog/firn/broker/config"
)

// settingFlags are the flags that the table of settings gives, and --config.
type settingFlags struct {
	given map[string]string
	set   setFlag
	file  string
}

// setFlag collects every NAME=VALUE of --set.
type setFlag struct{ given []string }

func (f *setFlag) Set(v string) error { f.given = append(f.given, v); return nil }
func (f *setFlag) Type() string       { return "NAME=VALUE" }
func (f *setFlag) String() string     { return "" }

// settingFlag puts a flag's text aside; package config parses it.
type settingFlag struct {
	setting *config.Setting
	given   map[string]string
}

func (f settingFlag) Set(v string) error { f.given[f.setting.Name] = v; return nil }
func (f settingFlag) Type() string       { return f.setting.Kind }
func (f settingFlag) String() string {
	if f.setting == nil {
		return ""
	}
	return f.setting.Default
}

func addSettingFlags(fs *pflag.FlagSet) *settingFlags {
	s := &settingFlags{given: map[string]string{}}
	fs.SortFlags = false
	fs.StringVar(&s.file, "config", "", "YAML `FILE` of settings, one NAME: VALUE per line, named as the flags")
	for i := range config.Table() {
		set := &config.Table()[i]
		if set.IsSet() {
			fs.Var(&s.set, set.Name, set.Doc)
			continue
		}
		fs.Var(settingFlag{set, s.given}, set.Name, set.Doc)
	}
	return s
}

// load reads the configuration from all its places.
func (a *app) load(s *settingFlags) (*config.Loaded, error) {
	l, err := config.Load(config.Inputs{Flags: s.given, Set: s.set.given, Environ: a.environ, File: s.file, CheckStore: checkStore})
	if err != nil {
		return nil, &failure{err: err, code: exitUsage, hint: "all settings: firn start --help, or docs/configuration.md"}
	}
	return l, nil
}

func (a *app) configCommand() *cobra.Command {
	cmd := group("config", "Show, change and check configs",
		`Configs of topics, brokers, groups and metrics are kept by the cluster and can be changed
while it runs: describe, alter. What "firn start" is given (flags, FIRN_* variables, a file)
can be checked and printed without starting anything: check, print.`,
		a.configDescribeCommand(), a.configAlterCommand(), a.configCheckCommand(), a.configPrintCommand())
	cmd.Example = `  firn config describe topic/flights --all
  firn config alter topic/flights --set retention.ms=604800000
  firn config check --config firn.yaml`
	return cmd
}

func (a *app) configCheckCommand() *cobra.Command {
	var s *settingFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the configuration is right",
		Long: `Say whether "firn start" could run with this configuration. Everything that is wrong is
listed, each with its file and line, flag or variable; then the exit code is 2.`,
		Example: "  firn config check --config firn.yaml",
		Args:    args(cobra.NoArgs, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			l, err := a.load(s)
			if a.json() {
				return a.printCheck(err)
			}
			if err != nil {
				return err
			}
			from := ""
			if l.File != "" {
				from = l.File + ": "
			}
			fmt.Fprintf(a.out, "%sthe configuration is right\n", from)
			return nil
		},
	}
	s = addSettingFlags(cmd.Flags())
	return cmd
}

// printCheck is the JSON form of config check: the list is the result, and
// the exit code says the same as without it.
func (a *app) printCheck(err error) error {
	type problem struct {
		Where  string `json:"where"`
		Key    string `json:"key,omitempty"`
		Reason string `json:"reason"`
	}
	out := struct {
		OK       bool      `json:"ok"`
		Problems []problem `json:"problems"`
	}{err == nil, []problem{}}
	for _, e := range configErrors(err) {
		out.Problems = append(out.Problems, problem{e.Where, e.Key, e.Reason})
	}
	if perr := a.printJSON(out); perr != nil {
		return perr
	}
	return err
}

// configErrors unpacks what config.Load joined.
func configErrors(err error) []*config.Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*config.Error); ok {
		return []*config.Error{e}
	}
	if m, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*config.Error
		for _, e := range m.Unwrap() {
			all = append(all, configErrors(e)...)
		}
		return all
	}
	return configErrors(errors.Unwrap(err))
}

func (a *app) configPrintCommand() *cobra.Command {
	var s *settingFlags
	cmd := &cobra.Command{
		Use:   "print",
		Short: "Print every setting in effect and where it comes from",
		Long: `Print every setting that "firn start" would use: its value and where that comes from (a
flag, a variable, a line of the file, or the default). Passwords and keys are not printed.`,
		Example: "  FIRN_KAFKA=127.0.0.1:19092 firn config print",
		Args:    args(cobra.NoArgs, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			l, err := a.load(s)
			if err != nil {
				return err
			}
			type setting struct {
				Key    string `json:"key"`
				Value  string `json:"value"`
				Origin string `json:"origin"`
				Where  string `json:"where"`
			}
			var all []setting
			t := newTable("KEY", "VALUE", "FROM")
			for _, v := range l.Values {
				all = append(all, setting{v.Setting.Name, v.Shown(), string(v.Origin), v.Where})
				t.row(v.Setting.Name, v.Shown(), v.Where)
			}
			for _, v := range l.Set {
				key := "set " + v.Name
				all = append(all, setting{key, v.Text, string(v.Origin), v.Where})
				t.row(key, v.Text, v.Where)
			}
			if a.json() {
				return a.printJSON(all)
			}
			return t.print(a.out)
		},
	}
	s = addSettingFlags(cmd.Flags())
	return cmd
}
