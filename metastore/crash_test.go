package metastore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
)

const crashDir = "FIRN_METASTORE_CRASH_DIR"

// TestCrashChild is the process that TestCrash kills. It changes metadata as
// quickly as it can and says on its output what was answered, and beforehand
// what it is about to delete.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("is started by TestCrash")
	}
	ctx := context.Background()
	s, err := Open(ctx, testConfig(dir), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Register(ctx); err != nil {
		t.Fatal(err)
	}
	say := func(format string, args ...any) { fmt.Fprintf(os.Stdout, "say "+format+"\n", args...) }
	say("started %d", os.Getpid())
	go func() { // large topics all the time, so that most kills hit one half made
		for i := 0; ; i++ {
			name := fmt.Sprintf("large-%d-%d", os.Getpid(), i)
			results, _, err := s.CreateTopics(ctx, []TopicSpec{{Name: name, Assignment: assign(partitionsPut + 7)}})
			if err != nil || results[0].Err != nil {
				panic(fmt.Sprint(err, results))
			}
			id := results[0].Topic.ID
			say("topic %s %d", id.Hex(), partitionsPut+7)
			say("deleting %s", id.Hex())
			if _, err := s.DeleteTopic(ctx, id); err != nil {
				panic(err)
			}
			say("deleted %s", id.Hex())
		}
	}()
	go func() {
		for n := int64(1); ; n = n%7 + 1 {
			first, err := s.AllocateProducerIDs(ctx, n)
			if err != nil {
				panic(err)
			}
			say("ids %d %d", first, n)
		}
	}()
	for i := 0; ; i++ {
		name := fmt.Sprintf("small-%d-%d", os.Getpid(), i)
		results, _, err := s.CreateTopics(ctx, []TopicSpec{{Name: name, Assignment: assign(2)}})
		if err != nil || results[0].Err != nil {
			t.Fatal(err, results)
		}
		id := results[0].Topic.ID
		say("topic %s 2", id.Hex())
		rev := int64(0)
		for n := range uint64(5) {
			rev, err = s.CommitTierPointer(ctx, id, 1, rev, 0, binary.BigEndian.AppendUint64(nil, n+1))
			if err != nil {
				t.Fatal(err)
			}
			say("pointer %s %d", id.Hex(), n+1)
		}
	}
}

// crashModel is what a killed process was seen to have answered.
type crashModel struct {
	topics   map[record.TopicID]int // partitions
	deleting map[record.TopicID]bool
	deleted  map[record.TopicID]bool
	pointers map[record.TopicID]uint64
	ids      map[int64]bool
}

func (m *crashModel) hear(t *testing.T, line string) {
	var kind, hex string
	var n, more int64
	if c, _ := fmt.Sscanf(line, "say %s %d %d", &kind, &n, &more); c == 3 && kind == "ids" {
		for id := n; id < n+more; id++ {
			if m.ids[id] {
				t.Fatalf("producer id %d was given twice", id)
			}
			m.ids[id] = true
		}
		return
	}
	if c, _ := fmt.Sscanf(line, "say %s %s %d", &kind, &hex, &n); c < 2 || kind == "started" {
		return
	}
	id, err := record.ParseTopicID(hex)
	if err != nil {
		return // the line that the kill cut short, or the test framework's
	}
	switch kind {
	case "topic":
		m.topics[id] = int(n)
	case "deleting":
		m.deleting[id] = true
	case "deleted":
		m.deleted[id] = true
	case "pointer":
		m.pointers[id] = uint64(n)
	}
}

// check opens the folder and compares it with what was answered.
func (m *crashModel) check(t *testing.T, dir string) {
	ctx := testCtx(t)
	s, err := Open(ctx, testConfig(dir), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if err := s.Register(ctx); err != nil { // the killed one's lease still runs
		t.Fatal(err)
	}
	waitFor(t, s, s.session.controller.Load())
	img := s.Image()
	if img.Controller != 1 || len(img.Brokers) != 1 {
		t.Fatalf("controller %d, brokers %v", img.Controller, img.Brokers)
	}
	for id, n := range m.topics {
		switch topic := img.TopicIDs[id]; {
		case m.deleted[id] && topic != nil:
			t.Fatalf("topic %s was deleted and is there", topic.Name)
		case !m.deleting[id] && topic == nil:
			t.Fatalf("topic %v was created and is gone", id)
		case topic != nil && len(topic.Partitions) != n:
			t.Fatalf("topic %s has %d partitions, not %d", topic.Name, len(topic.Partitions), n)
		}
	}
	want := int64(0)
	for _, topic := range img.Topics {
		want += int64(len(topic.Partitions))
	}
	keysBelow(t, s, partitionPrefix, want)
	for id, n := range m.pointers {
		p, err := s.TierPointer(ctx, id, 1)
		if err != nil || p.Revision == 0 || binary.BigEndian.Uint64(p.Value) < n {
			t.Fatalf("pointer of %v was answered as %d, now %+v, %v", id, n, p, err)
		}
	}
	first, err := s.AllocateProducerIDs(ctx, 10)
	if err != nil {
		t.Fatal(err)
	}
	m.hear(t, fmt.Sprintf("say ids %d 10", first))
}

// A process killed at any time has done all that it answered, nothing by
// halves, and never gives a producer id twice.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	m := &crashModel{map[record.TopicID]int{}, map[record.TopicID]bool{}, map[record.TopicID]bool{}, map[record.TopicID]uint64{}, map[int64]bool{}}
	for round := range 5 {
		cmd := exec.CommandContext(testCtx(t), os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		heard := 0
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
					t.Fatal(err)
				}
				break
			}
			m.hear(t, line)
			if heard++; heard == 40+round*61 {
				cmd.Process.Kill() // what is in the pipe is still read
			}
		}
		err = cmd.Wait()
		if heard < 40+round*61 {
			t.Fatalf("round %d: the process ended by itself after %d lines: %v", round, heard, err)
		}
		m.check(t, dir)
	}
	t.Logf("answered in all: %d topics, %d deletions, %d pointers, %d producer ids", len(m.topics), len(m.deleted), len(m.pointers), len(m.ids))
	if len(m.topics) == 0 || len(m.deleted) == 0 || len(m.pointers) == 0 {
		t.Fatal("the kills came too early to show anything")
	}
}

// A process killed at any time of its very first start leaves a folder that
// can be opened.
func TestCrashAtFirstStart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for i := range 10 {
		dir := t.TempDir()
		cmd := exec.CommandContext(testCtx(t), os.Args[0], "-test.run=^TestCrashChild$")
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(20+10*i) * time.Millisecond) // any moment will do
		cmd.Process.Kill()
		cmd.Wait()
		(&crashModel{ids: map[int64]bool{}}).check(t, dir)
	}
}
