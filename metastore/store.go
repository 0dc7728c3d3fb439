package metastore

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/firnlog/firn/record"
)

// ErrConflict says that a compare-and-swap lost: what it compared has changed
// or is gone. Nothing was written.
var ErrConflict = errors.New("metastore: conflict")

// Config says where the metastore lives and who this broker is.
type Config struct {
	Dir          string          // etcd's folder; made if missing
	BrokerID     record.BrokerID // ≥ 0
	Host         string          // advertised Kafka host
	Port         int32           // advertised Kafka port
	HTTP         string          // host:port of the HTTP listener
	Rack         string          // "" for none
	LeaseTTL     time.Duration   // of the registration; default 10 s, least 2 s
	QuotaBytes   int64           // of etcd's database; default 2 GiB
	CompactEvery time.Duration   // between looks after etcd; default 1 min
}

// Deps holds what the store is given.
type Deps struct {
	Log *slog.Logger // nil: slog.Default()
}

// Store is the metastore of one broker.
type Store struct{}

// TopicSpec is a topic to be created. Assignment[i] holds the replicas of
// partition i, preferred leader first.
type TopicSpec struct {
	Name       string
	Internal   bool
	Configs    map[string]string
	Assignment [][]record.BrokerID
}

// CreateResult is what became of one TopicSpec: a topic or an error.
type CreateResult struct {
	Topic *Topic
	Err   error
}

// TierPointer is tiering's opaque value for one partition.
type TierPointer struct {
	Value    []byte // ≤ MaxTierPointer
	Revision int64  // of the last write; 0 when there is none yet
}

// TierPointerEntry is one stored pointer and whose it is.
type TierPointerEntry struct {
	ID        record.TopicID
	Partition record.PartitionID
	TierPointer
}

var errStub = errors.New("metastore: not built yet")

// Open starts etcd in cfg.Dir.
func Open(ctx context.Context, cfg Config, deps Deps) (*Store, error) { return nil, errStub }

// Register writes this broker's key under a lease.
func (s *Store) Register(ctx context.Context) error { return errStub }

// Fenced says that the lease may be lost.
func (s *Store) Fenced() bool { return false }

// Image is the newest metadata.
func (s *Store) Image() *Image { return nil }

// OnChange calls fn after each new image.
func (s *Store) OnChange(fn func(*Image)) (cancel func()) { return func() {} }

// WaitFor waits until Image().Revision >= revision.
func (s *Store) WaitFor(ctx context.Context, revision int64) error { return errStub }

// CreateTopics creates topics, each atomically.
func (s *Store) CreateTopics(ctx context.Context, specs []TopicSpec) (results []CreateResult, revision int64, err error) {
	return nil, 0, errStub
}

// DeleteTopic deletes a topic.
func (s *Store) DeleteTopic(ctx context.Context, id record.TopicID) (revision int64, err error) {
	return 0, errStub
}

// AddPartitions adds partitions.
func (s *Store) AddPartitions(ctx context.Context, id record.TopicID, assignment [][]record.BrokerID, wantCurrent int) (revision int64, err error) {
	return 0, errStub
}

// SetTopicConfigs edits a topic's configs.
func (s *Store) SetTopicConfigs(ctx context.Context, id record.TopicID, edit func(map[string]string) (map[string]string, error)) (revision int64, err error) {
	return 0, errStub
}

// AllocateProducerIDs hands out n ids.
func (s *Store) AllocateProducerIDs(ctx context.Context, n int64) (first int64, err error) {
	return 0, errStub
}

// TierPointer reads a partition's pointer.
func (s *Store) TierPointer(ctx context.Context, id record.TopicID, p record.PartitionID) (TierPointer, error) {
	return TierPointer{}, errStub
}

// CommitTierPointer swaps a partition's pointer.
func (s *Store) CommitTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64, epoch record.Epoch, value []byte) (revision int64, err error) {
	return 0, errStub
}

// DeleteTierPointer deletes a pointer.
func (s *Store) DeleteTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64) error {
	return errStub
}

// TierPointers lists all pointers.
func (s *Store) TierPointers(ctx context.Context) iter.Seq2[TierPointerEntry, error] {
	return func(yield func(TierPointerEntry, error) bool) { yield(TierPointerEntry{}, errStub) }
}

// Close stops the store.
func (s *Store) Close(ctx context.Context) error { return errStub }
