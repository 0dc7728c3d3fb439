package tiering

import (
	"cmp"
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// partKey names a partition for good: a topic made again has another id.
type partKey struct {
	id record.TopicID
	p  record.PartitionID
}

func (k partKey) compare(o partKey) int {
	return cmp.Or(slices.Compare(k.id[:], o.id[:]), cmp.Compare(k.p, o.p))
}

// candidate is one partition with sealed segments to upload, oldest first.
type candidate struct {
	key    partKey
	segs   []record.Segment
	waited time.Duration // since the oldest was first seen
}

// planned is one segment of an object to be.
type planned struct {
	key partKey
	seg record.Segment
}

// limits say what a good object is.
type limits struct {
	target  int64         // bytes to stop at; a single larger segment is an object of its own
	wait    time.Duration // after which a small run goes with whatever company there is
	maxRuns int
}

// plan groups segments into objects. A partition with at least half of the
// target has an object of its own; smaller ones are packed together, and an
// object that is still less than half full waits until one of its partitions
// has waited long enough. Each partition is in one object at most: the next
// of its segments are planned when these are committed, so that commits of a
// partition are in order. Pure: the result depends on the arguments alone.
func plan(l limits, cands []candidate) [][]planned {
	cands = slices.Clone(cands)
	slices.SortFunc(cands, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.waited, a.waited), a.key.compare(b.key))
	})
	var jobs [][]planned
	var bin []planned
	var binBytes int64
	due := false
	for _, c := range cands {
		runs, bytes := prefix(l, c)
		if len(runs) == 0 {
			continue
		}
		if bytes >= l.target/2 {
			jobs = append(jobs, runs)
			continue
		}
		if len(bin)+len(runs) > l.maxRuns {
			jobs, bin, binBytes, due = append(jobs, bin), nil, 0, false
		}
		bin, binBytes, due = append(bin, runs...), binBytes+bytes, due || c.waited >= l.wait
		if binBytes >= l.target {
			jobs, bin, binBytes, due = append(jobs, bin), nil, 0, false
		}
	}
	if len(bin) > 0 && (due || binBytes >= l.target/2) {
		jobs = append(jobs, bin)
	}
	return jobs
}

// prefix takes segments of one partition up to the target, at least one.
func prefix(l limits, c candidate) (runs []planned, bytes int64) {
	for _, s := range c.segs {
		if len(runs) > 0 && (bytes+s.Bytes > l.target || len(runs) >= l.maxRuns) {
			break
		}
		runs = append(runs, planned{key: c.key, seg: s})
		bytes += s.Bytes
	}
	return runs, bytes
}
