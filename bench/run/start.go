package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/bench/blast"
	"github.com/firnlog/firn/bench/observe"
)

// startTouches is what memory a broker that starts may touch: Kafka's heap.
const startTouches = 1 << 30

func (s *Start) run(t *trial) error {
	if _, err := t.writeAll(); err != nil {
		return err
	}
	if err := t.load(s.Batch, s.Load); err != nil {
		return err
	}
	if err := s.fillWindow(t); err != nil {
		return err
	}
	if s.After == "kill" {
		t.p.kill()
	} else if err := t.p.stop(); err != nil {
		return err
	}
	if err := t.settle(t.dir, startTouches); err != nil {
		return err
	}
	m, err := begin(nil, t.store.pid())
	if err != nil {
		return err
	}
	if err := t.start(); err != nil {
		return err
	}
	m.pids = t.p.pids()
	r, err := t.writeAll()
	if err != nil {
		return err
	}
	return t.since(t.p.began, "start", m, r)
}

// fillWindow writes, in batches small enough to be copied into the journal,
// until at least s.Window bytes are in Firn's journal that
// the start after a crash has to replay, which is when so much was written
// since its last checkpoint.
func (s *Start) fillWindow(t *trial) error {
	firn, ok := t.server.(*firnServer)
	if !ok || s.Window == 0 || t.configs["firn.ack.policy"] != "fsync" {
		return nil
	}
	const step = 4 << 20
	before, err := firn.journal(t.ctx)
	if err != nil {
		return err
	}
	// A checkpoint comes at the latest when half of the journal is full.
	for tried := Size(0); tried < 8*s.Window; tried += step {
		if err := t.load(Batch{Size: 16 << 10}, step); err != nil {
			return err
		}
		now, err := firn.journal(t.ctx)
		if err != nil {
			return err
		}
		if now.checkpoints != before.checkpoints {
			before = now
		}
		if now.bytes-before.bytes >= float64(s.Window) {
			return nil
		}
	}
	return fmt.Errorf("the journal never held %d bytes since a checkpoint: start.window is more than it takes", s.Window)
}

// journal is how much went into Firn's journal since its start.
type journal struct{ bytes, checkpoints float64 }

func (f *firnServer) journal(ctx context.Context) (journal, error) {
	values, err := observe.Metrics(ctx, f.http)
	if err != nil {
		return journal{}, err
	}
	j := journal{values["firn_journal_bytes_total"], values["firn_journal_checkpoints_total"]}
	if j.bytes == 0 {
		return j, errors.New("Firn's metrics say nothing of its journal")
	}
	return j, nil
}

// writeAll has every partition of the topic take a write.
func (t *trial) writeAll() (*blast.Result, error) {
	batches, err := t.batches(Batch{Size: 4 << 10})
	if err != nil {
		return nil, err
	}
	return t.server.produce(t.ctx, blast.Produce{Topic: t.topic, Batches: batches, Connections: min(16, t.w.Partitions), InFlight: 5, Acks: -1, Bytes: int64(t.w.Partitions) * batches.Bytes})
}
