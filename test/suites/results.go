package main

import (
	"bufio"
	"bytes"
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	skipped outcome = "skipped"
	absent  outcome = "absent" // the test has no outcome: one it hangs from ended before it began
	notRun  outcome = "-"      // the suite was never run against that broker
)

// result is what became of one test against one broker.
type result struct {
	Name    string  `json:"name"`
	Outcome outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"` // one line; of a failure, a skip, or a pass at a later try
	Seconds float64 `json:"seconds"`
}

// row is one test in a suite's list.
type row struct {
	Name        string  `json:"name"`
	Kafka       outcome `json:"kafka"`
	Firn        outcome `json:"firn"`
	KafkaReason string  `json:"kafkaReason,omitempty"`
	FirnReason  string  `json:"firnReason,omitempty"`
	NotBuilt    string  `json:"notBuilt,omitempty"` // the feature that Firn does not have yet
}

// differs says whether Firn fails what Kafka passes.
func (r row) differs() bool { return r.Kafka == passed && r.Firn != passed && r.Firn != notRun }

// features that Firn does not have yet: notbuilt.txt may name these only.
var features = []string{"transactions", "KIP-848", "share groups", "streams groups", "security", "quotas", "multi-broker"}

//go:embed notbuilt.txt
var notBuiltText string

// notBuilt maps "SUITE TEST" to the feature that the test needs; a test stands
// for its subtests as well.
type notBuilt map[string]string

// parseNotBuilt reads lines of SUITE, TEST and FEATURE, apart by tabs.
func parseNotBuilt(text string) (notBuilt, error) {
	list := notBuilt{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("notbuilt.txt line %d: not SUITE, TEST and FEATURE, apart by one tab", n)
		}
		if !slices.Contains(features, f[2]) {
			return nil, fmt.Errorf("notbuilt.txt line %d: %q is none of %s", n, f[2], strings.Join(features, ", "))
		}
		list[f[0]+" "+f[1]] = f[2]
	}
	return list, nil
}

// feature finds what a test needs, by its own name or one it is a subtest of.
func (l notBuilt) feature(suite, test string) string {
	for {
		if f := l[suite+" "+test]; f != "" {
			return f
		}
		i := strings.LastIndexByte(test, '/')
		if i < 0 {
			return ""
		}
		test = test[:i]
	}
}

// merge puts new results of one broker, or of both, over the recorded rows. A
// broker that ran replaces all that was recorded for it, or, in a partial run,
// what was recorded of the same top-level tests.
func merge(suite string, recorded []row, ran map[string][]result, partial bool, list notBuilt) []row {
	again := map[string]bool{} // top-level tests that ran, by broker
	for broker, results := range ran {
		for _, r := range results {
			top, _, _ := strings.Cut(r.Name, "/")
			again[broker+" "+top] = true
		}
	}
	replaced := func(broker, name string) bool {
		if _, ok := ran[broker]; !ok || !partial {
			return ok
		}
		top, _, _ := strings.Cut(name, "/")
		return again[broker+" "+top]
	}
	rows := map[string]*row{}
	at := func(name string) *row {
		if rows[name] == nil {
			rows[name] = &row{Name: name}
		}
		return rows[name]
	}
	for _, r := range recorded {
		c := r
		if replaced("kafka", c.Name) || c.Kafka == notRun {
			c.Kafka, c.KafkaReason = "", ""
		}
		if replaced("firn", c.Name) || c.Firn == notRun {
			c.Firn, c.FirnReason = "", ""
		}
		rows[r.Name] = &c
	}
	for _, r := range ran["kafka"] {
		c := at(r.Name)
		c.Kafka, c.KafkaReason = r.Outcome, r.Reason
	}
	for _, r := range ran["firn"] {
		c := at(r.Name)
		c.Firn, c.FirnReason = r.Outcome, r.Reason
	}
	var all []row
	noKafka, noFirn := missing(rows)
	for _, r := range rows {
		if r.Kafka == "" && r.Firn == "" {
			continue
		}
		r.Kafka, r.Firn = cmp.Or(r.Kafka, noKafka), cmp.Or(r.Firn, noFirn)
		r.NotBuilt = ""
		if r.differs() {
			r.NotBuilt = list.feature(suite, r.Name)
		}
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b row) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// missing says what no outcome means: the test did not come to its end, or
// that broker has no outcomes at all.
func missing(rows map[string]*row) (kafka, firn outcome) {
	kafka, firn = notRun, notRun
	for _, r := range rows {
		if r.Kafka != "" && r.Kafka != notRun {
			kafka = absent
		}
		if r.Firn != "" && r.Firn != notRun {
			firn = absent
		}
	}
	return kafka, firn
}

// writeRows keeps a suite's list: one test a line, sorted.
func writeRows(path string, head []string, rows []row) error {
	var b bytes.Buffer
	for _, h := range head {
		fmt.Fprintf(&b, "# %s\n", h)
	}
	b.WriteString("# test\tKafka\tFirn\treason\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\n", r.Name, r.Kafka, r.Firn, r.reasons())
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}

// reasons is the last column: what each broker's run said.
func (r row) reasons() string {
	var parts []string
	if r.NotBuilt != "" {
		parts = append(parts, "not built: "+r.NotBuilt)
	}
	if r.KafkaReason != "" {
		parts = append(parts, "kafka: "+r.KafkaReason)
	}
	if r.FirnReason != "" {
		parts = append(parts, "firn: "+r.FirnReason)
	}
	return strings.ReplaceAll(strings.Join(parts, " || "), "\t", " ")
}

// readRows reads what writeRows wrote; a file that is not there is empty.
func readRows(path string) ([]row, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rows []row
	in := bufio.NewScanner(bytes.NewReader(text))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if strings.HasPrefix(in.Text(), "#") {
			continue
		}
		f := strings.SplitN(in.Text(), "\t", 4)
		if len(f) != 4 {
			return nil, fmt.Errorf("%s: not four columns: %q", path, in.Text())
		}
		r := row{Name: f[0], Kafka: outcome(f[1]), Firn: outcome(f[2])}
		for part := range strings.SplitSeq(f[3], " || ") {
			if v, ok := strings.CutPrefix(part, "not built: "); ok {
				r.NotBuilt = v
			} else if v, ok := strings.CutPrefix(part, "kafka: "); ok {
				r.KafkaReason = v
			} else if v, ok := strings.CutPrefix(part, "firn: "); ok {
				r.FirnReason = v
			}
		}
		rows = append(rows, r)
	}
	return rows, in.Err()
}

// tally counts outcomes.
type tally struct {
	Passed  int     `json:"passed"`
	Failed  int     `json:"failed"`
	Skipped int     `json:"skipped"`
	Seconds float64 `json:"seconds,omitempty"` // of this run; 0 when the results are recorded ones
}

func count(rows []row, of func(row) outcome) tally {
	var t tally
	for _, r := range rows {
		switch of(r) {
		case passed:
			t.Passed++
		case failed:
			t.Failed++
		case skipped:
			t.Skipped++
		}
	}
	return t
}
