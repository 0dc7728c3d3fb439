package kafkadiff_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firnlog/firn/test/firntest"
	"github.com/firnlog/firn/test/kafka"
	"github.com/firnlog/firn/test/kafkadiff"
)

var (
	walkSteps = flag.Int("steps", 0, "TestWalk asks Kafka and Firn so many requests")
	walkSeed  = flag.Uint64("seed", 1, "of TestWalk")
	walkKnown = flag.String("known", "", "of TestWalk: a file of further rules, for differences that somebody is on")
	walkOut   = flag.String("out", "", "of TestWalk: folder for the scenarios that walks shrink to")
)

// stepsPerWalk is how long one conversation is: a walk is many of them, each
// with topics and groups of its own, so that what differs shrinks quickly.
const stepsPerWalk = 150

func readRules(t *testing.T) *kafkadiff.Rules {
	t.Helper()
	var text []byte
	for _, file := range []string{"walk.rules", *walkKnown} {
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = append(append(text, b...), '\n')
	}
	rules, err := kafkadiff.ParseRules(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// TestWalk drives a Kafka and a Firn with the same random requests. It fails
// where they differ and no rule of walk.rules says that they may, with the
// smallest conversation that shows it.
func TestWalk(t *testing.T) {
	if *walkSteps == 0 {
		t.Skip("-steps is not given: make walk does")
	}
	rules := readRules(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// What offsets and groups have outlived is looked for at other times by two brokers.
	const check = "offsets.retention.check.interval.ms"
	judge, err := kafka.Start(ctx, map[string]string{"offsets.topic.num.partitions": "1", check: "100000000"})
	if err != nil {
		t.Fatal(err)
	}
	defer judge.Stop()
	firn := firntest.Start(t, settings([]string{check + "=100000000"})...)
	for _, addr := range []string{judge.Addr, firn.Kafka} {
		if err := kafkadiff.Prime(addr); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	var mu sync.Mutex
	steps, next := 0, *walkSeed
	count, first := map[string]int{}, map[string]*kafkadiff.Finding{}
	tolerated := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				mu.Lock()
				seed, done := next, steps >= *walkSteps
				next++
				mu.Unlock()
				if done {
					return
				}
				w := kafkadiff.RandomWalk(judge.Addr, firn.Kafka, seed, stepsPerWalk, rules)
				mu.Lock()
				steps += w.Steps
				for reason, n := range w.Tolerated {
					tolerated[reason] += n
				}
				if w.Err != nil {
					t.Error(w.Err)
				}
				if f := w.Finding; f != nil {
					count[f.Signature]++
					if old := first[f.Signature]; old == nil || len(f.Lines) < len(old.Lines) {
						first[f.Signature] = f
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("%d steps of walks %d to %d in %v", steps, *walkSeed, next-1, time.Since(begun).Round(time.Second))
	for _, reason := range slices.Sorted(maps.Keys(tolerated)) {
		t.Logf("%6d × %s", tolerated[reason], reason)
	}
	signatures := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return count[b] - count[a] })
	for _, s := range signatures {
		t.Logf("%6d walks ended at %s", count[s], s)
	}
	for i, s := range signatures {
		small := kafkadiff.Shrink(judge.Addr, firn.Kafka, first[s], rules, 30*time.Second)
		if small == nil {
			t.Errorf("%d × %s\n(not seen again when replayed: a matter of time?)\n%s", count[s], s, tail(first[s].Lines))
			continue
		}
		t.Errorf("%d × %s\n%s at %s\n    Kafka: %s\n    Firn:  %s\n%s", count[s], s, small.Title, small.Path, small.Kafka, small.Firn, small.ScenarioText())
		if *walkOut != "" {
			file := filepath.Join(*walkOut, fmt.Sprintf("walk-%d-%02d.txt", *walkSeed, i))
			if err := os.WriteFile(file, []byte(small.ScenarioText()), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
}

func tail(lines []string) string { return strings.Join(lines[max(0, len(lines)-25):], "\n") }
