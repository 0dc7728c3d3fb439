package chaos

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/chaos/check"
	"github.com/firnlog/firn/test/chaos/history"
)

// disks looks at what the stopped brokers have on their disks: each folder has
// to be whole, the replicas of a partition the same, byte for byte, and every
// record where clients saw it.
func (r *runner) disks() error {
	for _, b := range r.cluster.brokers {
		b.mu.Lock()
		r.result.Problems = append(r.result.Problems, b.odd...)
		b.mu.Unlock()
	}
	r.result.Problems = append(r.result.Problems, r.clients.problems...)
	printed, err := r.cluster.printed()
	if err != nil {
		return err
	}
	r.result.Problems = append(r.result.Problems, printed...)
	if len(r.result.Problems) > 0 {
		return nil // brokers may not have stopped cleanly: their ends may differ
	}
	processes := map[int]int32{}
	for _, b := range r.cluster.brokers {
		if err := r.verify(b); err != nil {
			r.problem("%v", err)
			return nil
		}
		processes[b.id] = r.clients.process(fmt.Sprintf("disk of broker %d", b.id), "", history.Disk)
	}
	for _, at := range r.topics.all() {
		name := fmt.Sprintf("%s-%d", at.topic, at.partition)
		var replicas []check.Replica
		for _, b := range r.cluster.brokers {
			found, err := filepath.Glob(filepath.Join(b.logs(), at.topic, fmt.Sprintf("%d-*", at.partition)))
			if err != nil {
				return err
			}
			if len(found) > 1 {
				r.problem("broker %d has %d folders of %s", b.id, len(found), name)
			}
			for _, dir := range found[:min(1, len(found))] {
				replicas = append(replicas, check.Replica{Broker: int32(b.id), Dir: dir})
				if err := r.onDisk(processes[b.id], at, dir); err != nil {
					r.problem("%s of broker %d: %v", name, b.id, err)
				}
			}
		}
		if len(replicas) != r.Replicas {
			r.problem("%s: %d replicas on disk, not %d", name, len(replicas), r.Replicas)
		}
		found, same, err := check.Compare(name, replicas)
		if err != nil {
			r.problem("%v", err)
		}
		r.found = append(r.found, found...)
		r.result.Same += same
	}
	return nil
}

// verify runs `firn log verify` on a stopped broker's folder.
func (r *runner) verify(b *broker) error {
	return b.do(func() error {
		cmd := exec.Command(r.Binary, "log", "verify", b.data)
		cmd.Dir = r.Dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("firn log verify of broker %d: %w\n%s", b.id, err, out)
		}
		return nil
	})
}

// maxDecompressed bounds the records of one batch.
const maxDecompressed = 64 << 20

// onDisk records what a replica's segments hold, as if somebody had read it, and
// looks at the sequence numbers of idempotent producers.
func (r *runner) onDisk(process int32, at target, dir string) error {
	batches, err := check.OpenBatches(dir)
	if err != nil {
		return err
	}
	defer batches.Close()
	sequences := check.Sequences{}
	for first := true; ; first = false {
		b, err := batches.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if first {
			sequences.Midway = b.BaseOffset() > 0
		}
		if what := sequences.Next(b); what != "" {
			r.found = append(r.found, check.Anomaly{Kind: check.Duplicate, Time: -1, Where: dir, What: what})
		}
		e := history.Event{Kind: history.Poll, Process: process, Key: at.key, High: -1}
		err = b.EachRecord(maxDecompressed, func(rec *record.Record) bool {
			e.Records = append(e.Records, history.Record{Offset: int64(rec.Offset), Value: history.ParsePayload(rec.Value)})
			return true
		})
		if err != nil {
			return fmt.Errorf("the batch at offset %d: %w", b.BaseOffset(), err)
		}
		if len(e.Records) > 0 {
			r.rec.Record(e)
		}
	}
}
