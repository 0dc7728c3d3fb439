// Package check judges the history of a chaos run: whether what clients were
// told can be true of a log that loses, repeats, reorders and changes nothing.
// It is pure: events in, anomalies out. The names are those of Jepsen's
// workload for Kafka where that has one for it
// (https://github.com/jepsen-io/jepsen, jepsen.tests.kafka); cycles between
// transactions (Elle's G0 and G1c) need transactions, which Firn does not have
// yet.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/firnlog/firn/test/chaos/history"
)

// Kind is what is wrong.
type Kind string

// The anomalies. A record is known to be at an offset when an acknowledgement
// with acks=all, or anybody who read, said so at any time of the run.
const (
	// LostWrite: an acknowledged record was never read, though records at
	// later offsets of its partition were.
	LostWrite Kind = "lost-write"
	// Unseen: an acknowledged record lies after everything that was read, and
	// the partition was read to its end.
	Unseen Kind = "unseen"
	// DirtyRead: somebody read a record that is not in its partition at the end.
	DirtyRead Kind = "dirty-read"
	// AbortedRead: somebody read a record whose send certainly failed.
	AbortedRead Kind = "G1a"
	// Phantom: somebody read a record that nobody sent to that partition, or
	// whose bytes are damaged.
	Phantom Kind = "phantom"
	// Duplicate: a record of an idempotent producer is at two offsets, or the
	// sequence numbers of one of its epochs are not one after the other on disk.
	Duplicate Kind = "duplicate"
	// InconsistentOffset: an offset held two records, for two readers, over
	// time, in two replicas, or for a producer and a reader.
	InconsistentOffset Kind = "inconsistent-offset"
	// PollSkip: between two polls a consumer passed over a known record.
	PollSkip Kind = "poll-skip"
	// IntPollSkip: within one poll.
	IntPollSkip Kind = "int-poll-skip"
	// NonmonotonicPoll: a poll gave an offset that the consumer had passed, or
	// one before the position it was to begin at.
	NonmonotonicPoll Kind = "nonmonotonic-poll"
	// IntNonmonotonicPoll: within one poll.
	IntNonmonotonicPoll Kind = "int-nonmonotonic-poll"
	// NonmonotonicSend: a send that began after another one was acknowledged,
	// by whichever client, has the lower offset.
	NonmonotonicSend Kind = "nonmonotonic-send"
	// IntNonmonotonicSend: of two sends of one producer that were under way at
	// the same time, the second has the lower offset.
	IntNonmonotonicSend Kind = "int-nonmonotonic-send"
	// LostCommit: a group's member was told a committed offset other than the
	// last one acknowledged before it asked, and than any that may have come
	// after that.
	LostCommit Kind = "lost-commit"
	// TornWatermark: a record was read at or above the high watermark that came
	// with it, or the partition ended below a high watermark that was seen.
	TornWatermark Kind = "torn-watermark"
	// Divergence: two replicas have different bytes, or different ends.
	Divergence Kind = "divergence"
)

// Kinds are all of them.
var Kinds = []Kind{LostWrite, Unseen, DirtyRead, AbortedRead, Phantom, Duplicate, InconsistentOffset, PollSkip, IntPollSkip, NonmonotonicPoll,
	IntNonmonotonicPoll, NonmonotonicSend, IntNonmonotonicSend, LostCommit, TornWatermark, Divergence}

// Anomaly is one thing that is wrong.
type Anomaly struct {
	Kind  Kind
	Line  int64 // of the history, where it was seen; 0 for none
	Time  int64 // of that event, nanoseconds since the run began; of no event: -1
	Where string
	What  string
}

// String says it in a line.
func (a Anomaly) String() string {
	where := a.Where
	if a.Line > 0 {
		where += fmt.Sprintf(" (line %d)", a.Line)
	}
	return fmt.Sprintf("%s: %s: %s", a.Kind, where, a.What)
}

// examples is how many anomalies of a kind are kept; the others are counted.
const examples = 20

// Report is what came out.
type Report struct {
	Events, Sends, Acked, Failed, Unknown int64
	Polls, Records                        int64 // polls that gave something, and what they gave, repeated reads counted
	Commits, Committed                    int64
	Repeats                               int64 // records of producers that are not idempotent that are there more than once
	Keys                                  int
	Ended                                 int // keys that were read to the end
	Count                                 map[Kind]int64
	Examples                              []Anomaly // at most 20 of a kind
}

// Add counts an anomaly.
func (r *Report) Add(a Anomaly) {
	if r.Count == nil {
		r.Count = map[Kind]int64{}
	}
	if r.Count[a.Kind]++; r.Count[a.Kind] <= examples {
		r.Examples = append(r.Examples, a)
	}
}

// Good says that nothing is wrong.
func (r *Report) Good() bool { return len(r.Count) == 0 }

// String tells it all, the counts first.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d events: %d sends (%d acknowledged, %d refused, %d unknown), %d polls with %d records, %d commits (%d acknowledged), %d of %d partitions read to the end\n",
		r.Events, r.Sends, r.Acked, r.Failed, r.Unknown, r.Polls, r.Records, r.Commits, r.Committed, r.Ended, r.Keys)
	if r.Repeats > 0 {
		fmt.Fprintf(&b, "%d records are there again, of producers that are not idempotent\n", r.Repeats)
	}
	if r.Good() {
		b.WriteString("no anomaly\n")
	}
	shown := slices.Clone(r.Examples)
	slices.SortStableFunc(shown, func(a, b Anomaly) int { return cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)) })
	for i, a := range shown {
		if i == 0 || shown[i-1].Kind != a.Kind {
			fmt.Fprintf(&b, "%s: %d\n", a.Kind, r.Count[a.Kind])
		}
		fmt.Fprintf(&b, "  %s\n", a)
	}
	return b.String()
}

// File checks a history's file.
func File(path string) (*Report, error) {
	c := New()
	if err := history.Each(path, c.Event); err != nil {
		return nil, err
	}
	return c.Finish(), nil
}
