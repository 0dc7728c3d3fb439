package broker

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/controller"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// A replica that was moved away, and comes back after a crash, begins with
// nothing, whatever the journal has of what it was; one that counts as having
// records does not use their offsets again.
func TestMovedAwayAndBack(t *testing.T) {
	const node = 3
	id := record.TopicID{7}
	cfg, err := topicconfig.Parse(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	topic := &metastore.Topic{Name: "t", ID: id}
	for name, c := range map[string]struct {
		isr []record.BrokerID
		end record.Offset
	}{"new": {[]record.BrokerID{1}, 0}, "in sync": {[]record.BrokerID{1, node}, 5}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open := func() (*topics, *journal.Journal) {
				j, err := journal.Open(filepath.Join(dir, "journal"), journal.Config{FileBytes: 1 << 20, Files: 4}, journal.Deps{Log: slog.Default(), Failed: func(err error) { t.Error(err) }})
				if err != nil {
					t.Fatal(err)
				}
				return &topics{dir: filepath.Join(dir, "logs"), node: node, log: slog.Default(), journal: j, fail: func(err error) { t.Error(err) }}, j
			}
			before, j := open()
			mp := metastore.Partition{Leader: node, Replicas: []record.BrokerID{1, node}, ISR: []record.BrokerID{node}}
			p, err := before.openPartition(topic, mp, cfg)
			if err != nil {
				t.Fatal(err)
			}
			p.Lead(controller.RecordOf(&mp))
			records := make([]record.Record, 5)
			for i := range records {
				records[i] = record.Record{Offset: record.Offset(i), Timestamp: time.Now().UnixMilli()}
			}
			batch, err := record.NewBatch(record.BatchSpec{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, records)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Append(batch, partition.Client); err != nil {
				t.Fatal(err)
			}
			durable := make(chan error, 1)
			p.AwaitHighWatermark(5, func(err error) { durable <- err })
			if err := <-durable; err != nil {
				t.Fatal(err)
			}
			// The files of the journal as a crash leaves them.
			files := filepath.Join(dir, "crashed")
			if err := os.CopyFS(files, os.DirFS(filepath.Join(dir, "journal"))); err != nil {
				t.Fatal(err)
			}
			if err := p.Delete(); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "logs", "t", "*")); len(left) > 0 {
				t.Errorf("left of what was removed: %v", left)
			}
			if err := os.RemoveAll(filepath.Join(dir, "journal")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(files, filepath.Join(dir, "journal")); err != nil {
				t.Fatal(err)
			}

			after, j := open()
			mp.Leader, mp.ISR = 1, c.isr
			if p, err = after.openPartition(topic, mp, cfg); err != nil {
				t.Fatal(err)
			}
			if s := p.State(); s.LogEnd != c.end || s.LogStart > 0 && c.end == 0 {
				t.Errorf("it is %+v, want the end %d", s, c.end)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if err := j.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
