package check

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/test/chaos/history"
)

func judge(t *testing.T, events []history.Event) *Report {
	t.Helper()
	c := New()
	for i := range events {
		if err := c.Event(int64(i+1), &events[i]); err != nil {
			t.Fatal(err)
		}
	}
	return c.Finish()
}

// Histories of a log that does nothing wrong have no anomaly.
func TestCleanHistories(t *testing.T) {
	var all Report
	for seed := range uint64(120) {
		r := judge(t, newWorld(seed, 1+int(seed%4)).run(400+int(seed)*5))
		if !r.Good() {
			t.Fatalf("seed %d:\n%s", seed, r)
		}
		all.Acked, all.Failed, all.Unknown, all.Repeats = all.Acked+r.Acked, all.Failed+r.Failed, all.Unknown+r.Unknown, all.Repeats+r.Repeats
		all.Commits, all.Committed, all.Ended = all.Commits+r.Commits, all.Committed+r.Committed, all.Ended+r.Ended
	}
	if all.Acked == 0 || all.Failed == 0 || all.Unknown == 0 || all.Repeats == 0 || all.Commits <= all.Committed || all.Committed == 0 || all.Ended != 300 {
		t.Errorf("something never happened: %+v", all)
	}
}

// Each anomaly that is planted into a clean history is found, and nothing is
// found that does not follow from it.
func TestPlantedAnomalies(t *testing.T) {
	planted := map[Kind]int{}
	for n, p := range plants {
		found := 0
		for seed := uint64(0); seed < 400 && found < 40; seed++ {
			rnd := rand.New(rand.NewPCG(seed, uint64(n)))
			h := newPlanted(newWorld(seed, 2+int(seed%3)).run(600))
			if !p.put(rnd, h) {
				continue
			}
			found++
			r := judge(t, h.events)
			if r.Count[p.kind] == 0 {
				t.Fatalf("plant %d, seed %d: no %s was found:\n%s", n, seed, p.kind, r)
			}
			for kind := range r.Count {
				if kind != p.kind && !slices.Contains(p.also, kind) {
					t.Fatalf("plant %d, seed %d: %s was planted, and %s found:\n%s", n, seed, p.kind, kind, r)
				}
			}
			if !strings.Contains(r.String(), string(p.kind)) {
				t.Fatalf("%s is not told:\n%s", p.kind, r)
			}
		}
		if found < 20 {
			t.Errorf("plant %d, %s: was put into %d histories only", n, p.kind, found)
		}
		planted[p.kind] += found
	}
	for _, kind := range Kinds {
		if planted[kind] == 0 && kind != Divergence { // of which logs_test.go is
			t.Errorf("%s was never planted", kind)
		}
	}
}

// lines is a history by hand: one partition, two producers, a reader, two
// members of a group.
func lines(events ...history.Event) []history.Event {
	all := []history.Event{
		{Kind: history.Partition, Text: "t"},
		{Kind: history.Client, Process: 1, Text: "a", Traits: idempotent},
		{Kind: history.Client, Process: 2, Text: "b", Traits: leaderOnly},
		{Kind: history.Client, Process: 3, Text: "r"},
		{Kind: history.Client, Process: 4, Text: "m", Group: "g"},
		{Kind: history.Client, Process: 5, Text: "n", Group: "g"},
		{Kind: history.Client, Process: 6, Text: "all", Traits: history.Final},
		{Kind: history.Client, Process: 7, Text: "c", Traits: plain},
		{Kind: history.Client, Process: 8, Text: "d", Traits: history.Disk},
	}
	return append(all, events...)
}

func sends(process int32, n int64) history.Event {
	return history.Event{Kind: history.Send, Process: process, Value: history.MakeValue(process, n)}
}

func ack(process int32, n, offset int64) history.Event {
	return history.Event{Kind: history.Acked, Process: process, Value: history.MakeValue(process, n), Offset: offset}
}

func commits(kind history.Kind, process int32, offset int64) history.Event {
	return history.Event{Kind: kind, Process: process, Offset: offset}
}

// What is at the border between allowed and not.
func TestBorders(t *testing.T) {
	poll := func(process int32, high int64, records ...history.Record) history.Event {
		return history.Event{Kind: history.Poll, Process: process, High: high, Records: records}
	}
	v := history.MakeValue
	commit, done, asks, told, gone := history.Commit, history.Committed, history.Assign, history.Position, history.Revoke
	for _, c := range []struct {
		name string
		want Kind // "" for nothing
		h    []history.Event
	}{
		{"acks=1 that is lost", "", lines(sends(2, 0), ack(2, 0, 0), sends(1, 0), ack(1, 0, 0), poll(6, 1, history.Record{Offset: 0, Value: v(1, 0)}), history.Event{Kind: history.End, Offset: 1})},
		{"an acknowledgement without an offset", "", lines(sends(1, 0), ack(1, 0, -1), poll(6, 1, history.Record{Offset: 0, Value: v(1, 0)}), history.Event{Kind: history.End, Offset: 1})},
		{"nobody has read", "", lines(sends(1, 0), ack(1, 0, 0))},
		{"nobody has read to the end", "", lines(sends(1, 0), ack(1, 0, 0), sends(1, 1), ack(1, 1, 1), poll(3, 2, history.Record{Offset: 0, Value: v(1, 0)}))},
		{"a topic that was deleted", "", lines(sends(1, 0), ack(1, 0, 0), sends(1, 1), ack(1, 1, 1), poll(3, 2, history.Record{Offset: 1, Value: v(1, 1)}), history.Event{Kind: history.Delete})},
		{"on disk, after all was read", "", lines(sends(1, 0), ack(1, 0, 0), sends(1, 1), poll(6, 1, history.Record{Offset: 0, Value: v(1, 0)}), history.Event{Kind: history.End, Offset: 1}, poll(8, -1, history.Record{Offset: 0, Value: v(1, 0)}, history.Record{Offset: 1, Value: v(1, 1)}))},
		{"read, and after the end", DirtyRead, lines(sends(1, 0), ack(1, 0, 0), sends(1, 1), poll(3, -1, history.Record{Offset: 1, Value: v(1, 1)}), poll(6, 1, history.Record{Offset: 0, Value: v(1, 0)}), history.Event{Kind: history.End, Offset: 1}, poll(8, -1, history.Record{Offset: 1, Value: v(1, 1)}))},
		{"on disk, and not where all was read", DirtyRead, lines(sends(1, 0), sends(1, 1), ack(1, 1, 1), poll(6, 2, history.Record{Offset: 1, Value: v(1, 1)}), history.Event{Kind: history.End, Offset: 2}, poll(8, -1, history.Record{Offset: 0, Value: v(1, 0)}))},
		{"two records acknowledged at one offset", InconsistentOffset, lines(sends(1, 0), sends(7, 0), ack(1, 0, 0), ack(7, 0, 0))},
		{"read elsewhere than acknowledged", Duplicate, lines(sends(1, 0), ack(1, 0, 0), poll(6, 9, history.Record{Offset: 0, Value: v(1, 0)}), poll(3, 9, history.Record{Offset: 5, Value: v(1, 0)}))},
		{"a record far beyond", "", lines(poll(3, -1), sends(1, 0), ack(1, 0, 1e17), poll(3, -1, history.Record{Offset: 1e17, Value: v(1, 0)}))},
		{"a jump over nothing", "", lines(sends(1, 0), commits(told, 3, 0), poll(3, -1, history.Record{Offset: 1e17, Value: v(1, 0)}))},
		{"a jump over something far away", PollSkip, lines(sends(1, 0), sends(1, 1), commits(told, 3, 0), ack(1, 0, 1e16), poll(6, -1, history.Record{Offset: 1e16, Value: v(1, 0)}), poll(3, -1, history.Record{Offset: 1e17, Value: v(1, 1)}))},
		{"an offset below zero", Phantom, lines(sends(1, 0), poll(3, -1, history.Record{Offset: -1, Value: v(1, 0)}))},
		{"before the position", NonmonotonicPoll, lines(sends(1, 0), commits(told, 3, 5), poll(3, -1, history.Record{Offset: 4, Value: v(1, 0)}))},
		{"the last commit", "", lines(commits(commit, 4, 5), commits(done, 4, 5), commits(asks, 5, 0), commits(told, 5, 5))},
		{"an older commit", LostCommit, lines(commits(commit, 4, 3), commits(done, 4, 3), commits(commit, 4, 5), commits(done, 4, 5), commits(asks, 5, 0), commits(told, 5, 3))},
		{"no commit at all", LostCommit, lines(commits(commit, 4, 3), commits(done, 4, 3), commits(asks, 5, 0), commits(told, 5, -1))},
		{"a commit nobody made", LostCommit, lines(commits(asks, 5, 0), commits(told, 5, 7))},
		{"a commit that was not answered", "", lines(commits(commit, 4, 3), commits(done, 4, 3), commits(commit, 4, 5), commits(asks, 5, 0), commits(told, 5, 5))},
		{"before a commit that was not answered", "", lines(commits(commit, 4, 3), commits(done, 4, 3), commits(commit, 4, 5), commits(asks, 5, 0), commits(told, 5, 3))},
		{"a commit that was answered too late", "", lines(commits(commit, 4, 3), commits(asks, 5, 0), commits(done, 4, 3), commits(told, 5, -1))},
		{"an older commit, while a newer one is answered", "", lines(commits(commit, 4, 3), commits(done, 4, 3), commits(commit, 4, 5), commits(asks, 5, 0), commits(done, 4, 5), commits(told, 5, 3))},
		{"two commits at once, either", "", lines(commits(commit, 4, 3), commits(commit, 5, 4), commits(done, 4, 3), commits(done, 5, 4), commits(asks, 5, 0), commits(told, 5, 3))},
		{"asked again after being revoked", LostCommit, lines(commits(commit, 4, 3), commits(done, 4, 3), commits(asks, 5, 0), commits(gone, 5, 0), commits(commit, 4, 5), commits(done, 4, 5), commits(asks, 5, 0), commits(told, 5, 3))},
	} {
		r := judge(t, c.h)
		if c.want == "" && !r.Good() || c.want != "" && (r.Count[c.want] != 1 || len(r.Count) != 1) {
			t.Errorf("%s: want %q:\n%s", c.name, c.want, r)
		}
	}
}

// A history that contradicts itself is the recorder's fault, not the broker's.
func TestBadHistories(t *testing.T) {
	for name, h := range map[string][]history.Event{
		"unknown process":         lines(history.Event{Kind: history.Assign, Process: 99}),
		"unknown partition":       lines(history.Event{Kind: history.Send, Process: 1, Key: 9, Value: history.MakeValue(1, 0)}),
		"a client twice":          lines(history.Event{Kind: history.Client, Process: 1}),
		"a partition twice":       lines(history.Event{Kind: history.Partition}),
		"a partition too many":    lines(history.Event{Kind: history.Partition, Key: maxKeys}),
		"a value left out":        lines(sends(1, 1)),
		"another one's value":     lines(history.Event{Kind: history.Send, Process: 1, Value: history.MakeValue(2, 0)}),
		"an answer to nothing":    lines(ack(1, 0, 0)),
		"two answers":             lines(sends(1, 0), ack(1, 0, 0), ack(1, 0, 0)),
		"another one's answer":    lines(sends(1, 0), history.Event{Kind: history.Acked, Process: 2, Value: history.MakeValue(1, 0)}),
		"a commit never sent":     lines(commits(history.Committed, 4, 1)),
		"an event of no kind":     lines(history.Event{Process: 1}),
		"a commit answered twice": lines(commits(history.Commit, 4, 1), commits(history.Committed, 4, 1), commits(history.Committed, 4, 1)),
	} {
		c := New()
		var err error
		for i := range h {
			if err = c.Event(int64(i+1), &h[i]); err != nil {
				break
			}
		}
		if !errors.Is(err, ErrHistory) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file is judged as its events are, and examples are bounded.
func TestFile(t *testing.T) {
	h := newPlanted(newWorld(1, 2).run(3000))
	for _, i := range h.polls {
		h.events[i].High = 0
	}
	path := filepath.Join(t.TempDir(), "history")
	var b []byte
	for i := range h.events {
		b = history.AppendLine(b, &h.events[i])
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	if r.Events != int64(len(h.events)) || r.Count[TornWatermark] <= examples || len(r.Examples) != examples || r.Count[TornWatermark] != r.Records {
		t.Errorf("%d examples of %d events:\n%s", len(r.Examples), r.Events, r)
	}
	os.WriteFile(path, append(b, "x\n"...), 0o644)
	if _, err := File(path); !errors.Is(err, history.ErrFormat) {
		t.Errorf("a bad line: %v", err)
	}
}

// BenchmarkChecker checks a file of b.N events: 10 million take tens of seconds.
func BenchmarkChecker(b *testing.B) {
	path := filepath.Join(b.TempDir(), "history")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld(1, 100)
	var buf []byte
	events := w.run(20_000)
	for written := 0; written < b.N; {
		// One world after the other, as other clients of other partitions.
		shift := int32(written/len(events)) * 20
		for i := range events {
			e := events[i]
			if shift+e.Process > history.MaxProcess {
				b.Fatal("too many")
			}
			e.Process += shift
			e.Key += shift * 5
			e.Value += history.Value(int64(shift) << 40)
			for j := range e.Records {
				e.Records[j].Value += history.Value(int64(shift) << 40)
			}
			buf = history.AppendLine(buf[:0], &e)
			f.Write(buf)
			for j := range e.Records {
				e.Records[j].Value -= history.Value(int64(shift) << 40)
			}
			written++
		}
	}
	f.Close()
	b.ResetTimer()
	began := time.Now()
	r, err := File(path)
	if err != nil || !r.Good() {
		b.Fatalf("%v\n%s", err, r)
	}
	b.ReportMetric(float64(r.Events)/time.Since(began).Seconds(), "events/s")
	b.Log(fmt.Sprint(r))
}
