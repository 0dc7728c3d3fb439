package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/firnlog/firn/test/kafka"
)

//go:embed tools.txt
var toolsText string

// toolPackages are where the tools' classes are, by their short names.
var toolPackages = map[string]string{
	"ConfigCommand":             "kafka.admin.",
	"ConsoleConsumer":           "org.apache.kafka.tools.consumer.",
	"ConsumerGroupCommand":      "org.apache.kafka.tools.consumer.group.",
	"ReassignPartitionsCommand": "org.apache.kafka.tools.reassign.",
}

// toolCase is one case of tools.txt.
type toolCase struct {
	name  string
	steps []toolStep
}

// toolStep is one command with what must come of it, or a file to make.
type toolStep struct {
	file, text string // makes a file, when file is set

	args        []string
	fails       bool
	stdin       []string
	want        []*regexp.Regexp
	wantNot     []*regexp.Regexp
	loose, sort bool
}

// parseTools reads tools.txt.
func parseTools(text string) ([]toolCase, error) {
	var cases []toolCase
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\n")
		word, rest, _ := strings.Cut(line, " ")
		if line == "" || word == "#" || line == "#" {
			continue
		}
		if word == "==" {
			cases = append(cases, toolCase{name: rest})
			continue
		}
		if len(cases) == 0 {
			return nil, fmt.Errorf("tools.txt line %d stands before the first case", n)
		}
		if err := cases[len(cases)-1].add(word, rest); err != nil {
			return nil, fmt.Errorf("tools.txt line %d: %w", n, err)
		}
	}
	return cases, nil
}

func (c *toolCase) add(word, rest string) error {
	switch word {
	case "$", "$!":
		c.steps = append(c.steps, toolStep{args: strings.Fields(rest), fails: word == "$!"})
		return nil
	case "file":
		name, text, _ := strings.Cut(rest, " ")
		c.steps = append(c.steps, toolStep{file: name, text: text})
		return nil
	}
	if len(c.steps) == 0 || c.steps[len(c.steps)-1].file != "" {
		return fmt.Errorf("%q follows no command", word)
	}
	s := &c.steps[len(c.steps)-1]
	switch word {
	case "<":
		s.stdin = append(s.stdin, rest)
	case ">", "!>":
		re, err := regexp.Compile(rest)
		if err != nil {
			return err
		}
		if word == ">" {
			s.want = append(s.want, re)
		} else {
			s.wantNot = append(s.wantNot, re)
		}
	case "~":
		s.loose, s.sort = s.loose || rest == "loose", s.sort || rest == "sort"
		if rest != "loose" && rest != "sort" {
			return fmt.Errorf("%q is neither loose nor sort", rest)
		}
	default:
		return fmt.Errorf("%q is no directive", word)
	}
	return nil
}

// transcriptPath is where Kafka's output of every command is kept, which
// Firn's has to equal.
func transcriptPath() string {
	return filepath.Join(root(), "test", "suites", "results", "tools-kafka.txt")
}

// runTools runs the cases in order. Against Kafka it records what was printed;
// against Firn that must be the same.
func runTools(ctx context.Context, w *world) ([]result, error) {
	cases, err := parseTools(toolsText)
	if err != nil {
		return nil, err
	}
	recorded := map[string]string{}
	if w.broker != "kafka" {
		text, err := os.ReadFile(transcriptPath())
		if err != nil {
			return nil, fmt.Errorf("run against Kafka first: %w", err)
		}
		recorded = splitTranscript(string(text))
	}
	log, err := os.Create(filepath.Join(w.logs, "tools.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	var results []result
	var transcript strings.Builder
	for _, c := range cases {
		start := time.Now()
		said, why, err := c.run(ctx, w, log)
		if err != nil {
			return nil, fmt.Errorf("case %s: %w", c.name, err)
		}
		if why == "" && w.broker != "kafka" {
			why = firstDifference(recorded[c.name], said)
		}
		fmt.Fprintf(&transcript, "== %s\n%s\n", c.name, said)
		r := result{Name: c.name, Outcome: passed, Seconds: time.Since(start).Seconds()}
		if why != "" {
			r.Outcome, r.Reason = failed, steady(why)
		}
		results = append(results, r)
	}
	if w.broker == "kafka" {
		if err := os.WriteFile(transcriptPath(), []byte(transcript.String()), 0o644); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// run runs a case's commands. said is the transcript; why is what was not as
// it should be, after which the case ends.
func (c *toolCase) run(ctx context.Context, w *world, log *os.File) (said, why string, err error) {
	dir, err := os.MkdirTemp("", "tools-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(dir)
	var b strings.Builder
	for _, s := range c.steps {
		if s.file != "" {
			if err := os.WriteFile(filepath.Join(dir, s.file), []byte(s.text), 0o644); err != nil {
				return "", "", err
			}
			continue
		}
		fmt.Fprintf(&b, "$ %s\n", strings.Join(s.args, " "))
		out, why, err := s.run(ctx, w, dir, log)
		if err != nil {
			return "", "", err
		}
		if !s.loose {
			b.WriteString(normalOutput(out, dir, s.sort))
		}
		if why != "" {
			return b.String(), fmt.Sprintf("%s: %s", strings.Join(s.args, " "), why), nil
		}
	}
	return b.String(), "", nil
}

// run runs one command and checks what came of it.
func (s *toolStep) run(ctx context.Context, w *world, dir string, log *os.File) (out, why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.suite.limit)
	defer cancel()
	var args []string
	for _, a := range s.args[1:] {
		args = append(args, strings.NewReplacer("$B", w.server.addr, "$DIR", dir).Replace(a))
	}
	pkg := toolPackages[s.args[0]]
	if pkg == "" {
		pkg = "org.apache.kafka.tools."
	}
	cmd, err := kafka.Tool(ctx, pkg+s.args[0], args...)
	if err != nil {
		return "", "", err
	}
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.stdin != nil {
		cmd.Stdin = strings.NewReader(strings.Join(s.stdin, "\n") + "\n")
	}
	err = cmd.Run()
	out = buf.String()
	fmt.Fprintf(log, "$ %s\n%s\n", strings.Join(s.args, " "), out)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", "", err
	}
	if ctx.Err() != nil {
		return out, fmt.Sprintf("not done after %s", w.suite.limit), nil
	}
	if failed := err != nil; failed != s.fails {
		return out, fmt.Sprintf("exit code %d: %s", cmd.ProcessState.ExitCode(), tellingLine(out)), nil
	}
	for _, re := range s.want {
		if !matchesLine(re, out) {
			return out, fmt.Sprintf("no line matches %s: %s", re, tellingLine(out)), nil
		}
	}
	for _, re := range s.wantNot {
		if matchesLine(re, out) {
			return out, fmt.Sprintf("a line matches %s", re), nil
		}
	}
	return out, "", nil
}

func matchesLine(re *regexp.Regexp, out string) bool {
	for line := range strings.Lines(out) {
		if re.MatchString(strings.TrimRight(line, "\n")) {
			return true
		}
	}
	return false
}

// tellingLine is the line of an output that most likely says what is wrong.
func tellingLine(out string) string {
	last := ""
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "Exception") || strings.HasPrefix(line, "Error") {
			return line
		}
		if line != "" {
			last = line
		}
	}
	return last
}

var (
	toolNoise = regexp.MustCompile(`^\s+at |StatusLogger|SLF4J|^WARN|^\[?\d{4}-\d\d-\d\d|^\d\d:\d\d:\d\d|^\s*\.\.\. \d+ more|^\s*$`)
	// What a broker says in an error is in its own words.
	toolError   = regexp.MustCompile(`((?:\w+\.)*\w+Exception)\b.*`)
	toolMessage = regexp.MustCompile(`^Error\b.*`)
	toolTopicID = regexp.MustCompile(`\bTopicId: \S{22}`)
	toolGroup   = regexp.MustCompile(`\bconsole-consumer-\d+`)
	// Kafka's folder is formatted with eligible leader replicas, which sets
	// this for the whole cluster; Firn has one replica.
	toolMinISR  = regexp.MustCompile(`^\s*min\.insync\.replicas=1 .*|\bmin\.insync\.replicas=1,?`)
	toolLogDirs = regexp.MustCompile(`"log_dirs":\["[^"]*"`)
	toolSpaces  = regexp.MustCompile(`[ \t]+`)
)

// normalOutput takes out of an output what differs between two runs or two
// brokers that do the same: ids, times, folders, the words of an error, the
// width of columns.
func normalOutput(out, dir string, sorted bool) string {
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(out, dir, "DIR")) {
		line = strings.TrimRight(line, "\r\n")
		if toolNoise.MatchString(line) {
			continue
		}
		line = toolTopicID.ReplaceAllString(line, "TopicId: ID")
		line = toolLogDirs.ReplaceAllString(line, `"log_dirs":["DIR"`)
		line = toolGroup.ReplaceAllString(line, "console-consumer-N")
		line = toolMinISR.ReplaceAllString(line, "")
		line = toolMessage.ReplaceAllString(line, "Error …")
		line = toolError.ReplaceAllString(line, "$1 …")
		if line = strings.TrimSpace(toolSpaces.ReplaceAllString(line, " ")); line != "" {
			lines = append(lines, line)
		}
	}
	if sorted {
		slices.Sort(lines)
	}
	return strings.Join(append(lines, ""), "\n")
}

// splitTranscript gives each case's part.
func splitTranscript(text string) map[string]string {
	parts := map[string]string{}
	for part := range strings.SplitSeq("\n"+text, "\n== ") {
		name, said, _ := strings.Cut(part, "\n")
		parts[name] = strings.TrimRight(said, "\n")
	}
	return parts
}

// firstDifference tells the first line in which Firn's transcript is not
// Kafka's; empty when there is none.
func firstDifference(kafka, firn string) string {
	k, f := strings.Split(strings.TrimRight(kafka, "\n"), "\n"), strings.Split(strings.TrimRight(firn, "\n"), "\n")
	command := ""
	for i := range max(len(k), len(f)) {
		var a, b string
		if i < len(k) {
			a = k[i]
		}
		if i < len(f) {
			b = f[i]
		}
		if a != b {
			return fmt.Sprintf("%s: Kafka prints %q, Firn %q", command, a, b)
		}
		if strings.HasPrefix(a, "$ ") {
			command = a[2:]
		}
	}
	return ""
}
