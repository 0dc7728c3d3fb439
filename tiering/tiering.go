// Package tiering moves sealed segments to the object store and reads them
// back: what goes into one object (plan), the bytes of objects, manifests and
// pointers, uploads and their commit by compare-and-swap, cold reads, remote
// retention, and the collection of what nothing refers to. The local log,
// etcd and the store's own protocol belong to others.
//
// Why it is safe:
//
//   - An object's key is new each time and written once. Until the pointer
//     refers to it nobody reads it; a crash before that leaves an orphan.
//   - The pointer changes by compare-and-swap under the leader's epoch. After
//     a lost answer it is read again, so that the outcome is always learnt.
//   - Local copies may go (SetTieredEnd) only after the object was read back
//     and the pointer committed.
//   - Nothing is deleted that a pointer read afresh refers to, nor what might
//     still be committed: an upload that is not committed within half of the
//     quarantine is given up by its maker, and an orphan is deleted when it
//     has been one for a whole quarantine, by the collector's clock alone.
package tiering

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strings"
	"time"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/metastore"
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
	// record.ErrCorrupt: the segment is damaged and must not be uploaded.
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
	Enabled        bool          // upload: remote.storage.enable and not remote.log.copy.disable; what is tiered stays readable without
	Drop           bool          // remote.storage.enable was turned off: what is tiered goes (KIP-950); never with Enabled
	RetentionBytes int64         // retention.bytes over the whole log; < 0 unlimited
	Retention      time.Duration // retention.ms over the whole log; < 0 unlimited
	Epoch          record.Epoch  // leader epoch that commits are made under
}

// Config is plain values; zero takes the default.
type Config struct {
	Uploads        int           // uploads at once; default 4
	Every          time.Duration // between scans for sealed segments; default 5 s
	TargetBytes    int64         // of an object; larger segments go alone; default 128 MiB
	PackWait       time.Duration // how long a small run waits for company in an object; default 60 s, < 0 not at all
	InlineEntries  int           // runs a pointer holds before they are folded into a manifest; default 128, at most 512
	SweepEvery     time.Duration // between sweeps of the bucket; default 1 h, < 0 never
	QuarantineFor  time.Duration // from an orphan's discovery to its deletion; default 1 h
	DeleteDelay    time.Duration // from retention to the deletion of an object; default 60 s, < 0 at once
	ChunkBytes     int           // block size of new objects, and so the unit of cold reads; default 4 MiB
	IndexBytes     int64         // of decoded run indexes kept in memory; default 64 MiB
	Readahead      int64         // bytes read ahead per sequential reader at most; default 128 MiB, < 0 none
	ReadaheadGets  int           // ranged GETs of readahead at once, all readers together; default 32
	ReadaheadKept  int           // chunks got ahead that nobody has asked for yet, all readers together; default 64
	ColdBytesPerS  int64         // of readahead, all readers together; default 0, unlimited
	StoreTimeout   time.Duration // of one ranged GET, HEAD, DELETE or small PUT; default 30 s. An upload has one second per MiB more
	ColdRangeLimit int           // bytes of one ReadCold at most; default 32 MiB
}

func (c *Config) defaults() error {
	set(&c.Uploads, 4)
	set(&c.Every, 5*time.Second)
	set(&c.TargetBytes, 128<<20)
	set(&c.PackWait, time.Minute)
	set(&c.InlineEntries, 128)
	set(&c.SweepEvery, time.Hour)
	set(&c.QuarantineFor, time.Hour)
	set(&c.DeleteDelay, time.Minute)
	set(&c.ChunkBytes, 4<<20)
	set(&c.IndexBytes, 64<<20)
	set(&c.Readahead, 128<<20)
	set(&c.ReadaheadGets, 32)
	set(&c.ReadaheadKept, 64)
	set(&c.StoreTimeout, 30*time.Second)
	set(&c.ColdRangeLimit, 32<<20)
	switch {
	case c.Uploads < 1 || c.Every < 0 || c.TargetBytes < 1 || c.IndexBytes < 0 || c.ReadaheadGets < 0 || c.ReadaheadKept < 0 || c.ColdBytesPerS < 0 || c.StoreTimeout < 0 || c.QuarantineFor < 0 || c.ColdRangeLimit < 1:
		return fmt.Errorf("tiering: a negative setting: %+v", *c)
	case c.InlineEntries < 1 || c.InlineEntries > 512:
		return fmt.Errorf("tiering: %d inline entries, 1 to 512 are possible", c.InlineEntries)
	case c.ChunkBytes < minBlock || c.ChunkBytes > maxBlock:
		return fmt.Errorf("tiering: chunks of %d bytes, %d to %d are possible", c.ChunkBytes, minBlock, maxBlock)
	}
	return nil
}

func set[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Metadata is where pointers live. *metastore.Store is one. If it also has
// Image() *metastore.Image, the sweep gives up pointers of topics that have
// not been in the image for a quarantine.
type Metadata interface {
	TierPointer(ctx context.Context, id record.TopicID, p record.PartitionID) (metastore.TierPointer, error)
	CommitTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64, epoch record.Epoch, value []byte) (revision int64, err error)
	DeleteTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64) error
	TierPointers(ctx context.Context) iter.Seq2[metastore.TierPointerEntry, error]
	TierPointersOf(ctx context.Context, id record.TopicID) iter.Seq2[metastore.TierPointerEntry, error]
}

// Deps are what the Manager uses and does not own.
type Deps struct {
	Log       *slog.Logger // nil: slog.Default
	Store     objectstore.Store
	Meta      Metadata
	Cache     *cache.Cache
	Now       func() time.Time // nil: time.Now
	ClusterID string           // part of every key: [0-9A-Za-z_-]
}

func (d *Deps) check() error {
	if d.Store == nil || d.Meta == nil || d.Cache == nil {
		return errors.New("tiering: store, metadata and cache are needed")
	}
	if d.ClusterID == "" || len(d.ClusterID) > 64 || strings.Trim(d.ClusterID, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-") != "" {
		return fmt.Errorf("tiering: cluster id %q cannot be part of a key", d.ClusterID)
	}
	if d.Log == nil {
		d.Log = slog.Default()
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return nil
}
