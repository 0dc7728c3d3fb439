// Package tiering moves sealed segments to the object store and reads them
// back: what goes into one object (plan), the bytes of objects, manifests and
// pointers, uploads and their commit by compare-and-swap, cold reads, remote
// retention, and the collection of what nothing refers to. The local log,
// etcd and the store's own protocol belong to others.
package tiering

import (
	"context"
	"log/slog"
	"time"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/record"
)

// Hot is the local part of a partition, as tiering needs it.
// *partition.Partition is one.
type Hot interface {
	TP() record.TopicPartition
	TopicID() record.TopicID
	// Sealed lists the sealed segments from the one that contains from on,
	// wholly below the high watermark and the last stable offset, ascending.
	Sealed(from record.Offset) []record.Segment
	// OpenSealed opens the sealed segment whose base offset is base.
	OpenSealed(base record.Offset) (*record.SealedFiles, error)
	// SetTieredEnd says that everything below end is committed to the store.
	SetTieredEnd(end record.Offset)
	// AdvanceLogStart says that records below o are gone for good.
	AdvanceLogStart(o record.Offset) error
	// LogStart is the first readable offset, hot or cold.
	LogStart() record.Offset
}

// Policy is what a topic's settings say to tiering.
type Policy struct {
	Enabled        bool          // remote.storage.enable: upload; what is tiered stays readable without
	RetentionBytes int64         // retention.bytes over the whole log; < 0 unlimited
	Retention      time.Duration // retention.ms over the whole log; < 0 unlimited
	Epoch          record.Epoch  // leader epoch that commits are made under
}

// Config is plain values; zero takes the default.
type Config struct {
	Uploads       int           // uploads at once; default 4
	Every         time.Duration // between scans for sealed segments; default 5 s
	PackWait      time.Duration // how long a small run waits for company in an object; default 60 s, < 0 not at all
	SweepEvery    time.Duration // between sweeps of the bucket; default 1 h, < 0 never
	QuarantineFor time.Duration // from an orphan's discovery to its deletion; default 1 h
	DeleteDelay   time.Duration // from retention to deletion of an object; default 60 s
	ChunkBytes    int           // block size of new objects and so the unit of cold reads; default 4 MiB
}

// Metadata is where pointers live. *metastore.Store is one.
type Metadata interface{}

// Deps are what the Manager uses and does not own.
type Deps struct {
	Log       *slog.Logger // nil: slog.Default
	Store     objectstore.Store
	Meta      Metadata
	Cache     *cache.Cache
	Now       func() time.Time // nil: time.Now
	ClusterID string
}

// Manager tiers the partitions attached to it. Safe for concurrent use.
type Manager struct{}

// Open starts a Manager. It makes no call to the store.
func Open(ctx context.Context, cfg Config, deps Deps) (*Manager, error) { return &Manager{}, nil }

// Attach takes charge of a partition: its pointer is read, hot is told the
// tiered end and the log start, and uploads begin if policy says so. It needs
// the metastore, not the store: a manifest that cannot be read now is tried
// again in the background.
func (m *Manager) Attach(ctx context.Context, hot Hot, policy Policy) error { return nil }

// SetPolicy changes an attached partition's policy.
func (m *Manager) SetPolicy(id record.TopicID, p record.PartitionID, policy Policy) {}

// Detach gives a partition up; what is being uploaded for it is abandoned.
func (m *Manager) Detach(id record.TopicID, p record.PartitionID) {}

// DropTopic gives up all the pointers of a deleted topic; its objects follow
// after the delete delay. What is interrupted, the sweep finishes.
func (m *Manager) DropTopic(ctx context.Context, id record.TopicID) error { return nil }

// Kick says that a segment was sealed, so that it need not wait for the tick.
func (m *Manager) Kick(id record.TopicID, p record.PartitionID) {}

// ReadCold: see partition.Cold.
func (m *Manager) ReadCold(ctx context.Context, id record.TopicID, tp record.TopicPartition, from record.Offset, maxBytes int) ([]record.Span, []record.AbortedTxn, error) {
	return nil, nil, nil
}

// ColdTimestamp: see partition.Cold.
func (m *Manager) ColdTimestamp(ctx context.Context, id record.TopicID, tp record.TopicPartition, ts int64) (record.TimestampOffset, error) {
	return record.NoTimestampOffset, nil
}

// ColdMaxTimestamp: see partition.Cold.
func (m *Manager) ColdMaxTimestamp(ctx context.Context, id record.TopicID, tp record.TopicPartition) (record.TimestampOffset, error) {
	return record.NoTimestampOffset, nil
}

// ColdRange: see partition.Cold.
func (m *Manager) ColdRange(id record.TopicID, tp record.TopicPartition) (start, end record.Offset) {
	return 0, 0
}

// PartitionStatus is what `firn tier status` shows of one partition.
type PartitionStatus struct {
	Topic         string             `json:"topic"`
	TopicID       string             `json:"topicId"`
	Partition     record.PartitionID `json:"partition"`
	State         string             `json:"state"` // ok, disabled, loading (manifest not read yet), retrying, failed
	Enabled       bool               `json:"enabled"`
	LogStart      record.Offset      `json:"logStart"`
	RemoteStart   record.Offset      `json:"remoteStart"`
	RemoteEnd     record.Offset      `json:"remoteEnd"` // exclusive
	RemoteBytes   int64              `json:"remoteBytes"`
	Objects       int                `json:"objects"`
	Segments      int                `json:"segments"`
	LocalStart    record.Offset      `json:"localStart"` // of the oldest sealed segment on disk, -1 for none
	LocalSegments int                `json:"localSegments"`
	LocalBytes    int64              `json:"localBytes"` // sealed segments on disk
	LagSegments   int                `json:"lagSegments"`
	LagOffsets    int64              `json:"lagOffsets"` // sealed and not yet tiered
	LagBytes      int64              `json:"lagBytes"`
	LagMs         int64              `json:"lagMs"` // how long the oldest of these has waited
	Generation    int64              `json:"generation"`
	LastUploadMs  int64              `json:"lastUploadMs"` // Unix milliseconds, 0 for never
	LastError     string             `json:"lastError,omitempty"`
	LastErrorMs   int64              `json:"lastErrorMs,omitempty"`
}

// Status describes the attached partitions of a topic ("" for all), ordered
// by topic and partition.
func (m *Manager) Status(topic string) []PartitionStatus { return nil }

// Close stops uploads and sweeps and waits for them until ctx ends. Cold
// reads fail from then on.
func (m *Manager) Close(ctx context.Context) error { return nil }
