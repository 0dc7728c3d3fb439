// Package group is the coordinator of consumer groups (the classic protocol):
// who is a member of which group in which generation, and the offsets that
// groups have committed. Decisions are made by a pure core, one per group,
// that knows no clock, goroutine or I/O; the Coordinator around it keeps time,
// writes the core's records to __consumer_offsets and calls replies.
// Protocol framing, authorisation and topic ids do not belong here.
package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// Log is one partition of __consumer_offsets, given by the broker. Only the
// coordinator appends to it, one batch at a time; the batch is not touched
// again after Append was called, so the log may patch offset and epoch in
// place.
type Log interface {
	// Append writes one batch and returns the offset it was given. The batch
	// is durable, as with acks=all, when it returns. An error may leave it
	// open whether the batch is in the log, as a crash may.
	Append(batch record.Batch) (record.Offset, error)
	// Replay calls fn with all batches from the start of the log to its end.
	// The batch need not stay valid after fn returns.
	Replay(ctx context.Context, fn func(record.Batch) error) error
	// TrimTo says that records below o are no longer needed. It may keep any
	// suffix of them.
	TrimTo(o record.Offset) error
	// End is the offset that the next record will get.
	End() record.Offset
}

// Config is the coordinator's settings; zero values take the defaults.
type Config struct {
	OffsetsPartitions     int32         // partitions of __consumer_offsets; 50
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms; 3 s; negative: none
	MinSessionTimeout     time.Duration // group.min.session.timeout.ms; 6 s
	MaxSessionTimeout     time.Duration // group.max.session.timeout.ms; 30 min
	MaxSize               int           // members per group, group.max.size; 10,000
	MaxGroups             int           // groups of all loaded partitions; 100,000
	MaxGroupBytes         int           // ids, subscriptions and assignments of one group; 32 MiB
	MaxGroupOffsets       int           // partitions that one group may commit; 1,000,000
	MaxBytes              int64         // all groups and offsets in memory, about; 1 GiB
	OffsetsRetention      time.Duration // of an empty group's offsets; 7 d
	RetentionCheck        time.Duration // how often expired offsets are looked for; 10 min
	MaxMetadataBytes      int           // of one committed offset, in UTF-16 units as Kafka counts; 4096; negative: none allowed
	MaxBatchBytes         int64         // at which a batch for the log is closed; one request's records stay in one batch; 512 KiB
	SnapshotBytes         int64         // appended bytes after which a partition's log is rewritten; 16 MiB
}

func orDefault[T int | int32 | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (cfg *Config) setDefaults() {
	orDefault(&cfg.OffsetsPartitions, 50)
	orDefault(&cfg.InitialRebalanceDelay, 3*time.Second)
	orDefault(&cfg.MinSessionTimeout, 6*time.Second)
	orDefault(&cfg.MaxSessionTimeout, 30*time.Minute)
	orDefault(&cfg.MaxSize, 10_000)
	orDefault(&cfg.MaxGroups, 100_000)
	orDefault(&cfg.MaxGroupBytes, 32<<20)
	orDefault(&cfg.MaxGroupOffsets, 1_000_000)
	orDefault(&cfg.MaxBytes, 1<<30)
	orDefault(&cfg.OffsetsRetention, 7*24*time.Hour)
	orDefault(&cfg.RetentionCheck, 10*time.Minute)
	orDefault(&cfg.MaxMetadataBytes, 4096)
	orDefault(&cfg.MaxBatchBytes, 512<<10)
	orDefault(&cfg.SnapshotBytes, 16<<20)
	cfg.InitialRebalanceDelay = max(cfg.InitialRebalanceDelay, 0)
	cfg.OffsetsPartitions = max(cfg.OffsetsPartitions, 1)
}

// Deps is what the coordinator needs from outside.
type Deps struct {
	Log *slog.Logger     // nil: discard
	Now func() time.Time // nil: time.Now
	// TopicID gives the id of the topic that has this name now, zero for none
	// or one that is not known. Offsets that were committed for another topic
	// of that name are not shown. nil: no topic is known.
	TopicID func(name string) record.TopicID
}

// ClientInfo says who sent a request; DescribeGroups shows it.
type ClientInfo struct {
	ClientID string
	Host     string // "/" and the address, as Kafka shows it
}

// Coordinator answers for the groups of the partitions that are loaded.
// Replies are called without any lock held, by any goroutine; they must not
// block and must not call Unload or Close.
type Coordinator struct {
	parts  int32 // of __consumer_offsets; never changes
	cfg    atomic.Pointer[Config]
	deps   Deps
	timers *timers
	groups atomic.Int64 // of all shards
	bytes  atomic.Int64 // of all shards, about
	shards []atomic.Pointer[shard]

	mu     sync.Mutex // serialises changes of shards and settings; taken before a shard's mu
	closed bool
}

// New makes a coordinator that has no partition loaded. It runs one goroutine
// until Close, and one more per loaded partition.
func New(cfg Config, deps Deps) *Coordinator {
	cfg.setDefaults()
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.TopicID == nil {
		deps.TopicID = func(string) record.TopicID { return record.TopicID{} }
	}
	c := &Coordinator{
		parts: cfg.OffsetsPartitions, deps: deps,
		timers: startTimers(deps.Now),
		shards: make([]atomic.Pointer[shard], cfg.OffsetsPartitions),
	}
	c.cfg.Store(&cfg)
	return c
}

// SetConfig makes the coordinator decide by other settings from now on; zero
// values take the defaults. The number of partitions stays that of New: where
// a group is follows from it. Members and offsets beyond a limit that became
// smaller stay; phases that have begun end when they were to.
func (c *Coordinator) SetConfig(cfg Config) {
	cfg.OffsetsPartitions = c.parts
	cfg.setDefaults()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg.Store(&cfg)
	for _, s := range c.all() {
		s.mu.Lock()
		s.rules = cfg.rules()
		if s.phase == active {
			c.timers.soonest(s.retention, c.deps.Now().Add(cfg.RetentionCheck))
		}
		s.mu.Unlock()
	}
}

// config gives the settings of this moment; they are not changed.
func (c *Coordinator) config() *Config { return c.cfg.Load() }

func (cfg *Config) rules() rules {
	return rules{initialDelay: cfg.InitialRebalanceDelay, maxSize: cfg.MaxSize, maxBytes: cfg.MaxGroupBytes, newID: uuid.NewString}
}

// PartitionFor says which partition of __consumer_offsets holds the group: as
// in Kafka, the absolute value of Java's String.hashCode (0 for the one number
// that has none), modulo the partitions.
func (c *Coordinator) PartitionFor(group string) int32 {
	h := javaHash(group)
	switch {
	case h == math.MinInt32:
		h = 0
	case h < 0:
		h = -h
	}
	return h % c.parts
}

// javaHash is String.hashCode: over UTF-16 units.
func javaHash(s string) int32 {
	var h int32
	for _, r := range s {
		if r >= 0x10000 {
			hi, lo := utf16.EncodeRune(r)
			h = 31*(31*h+hi) + lo
			continue
		}
		h = 31*h + r
	}
	return h
}

// Load replays the log of one partition and answers for its groups from then
// on; until it returns they are told COORDINATOR_LOAD_IN_PROGRESS. A record
// that cannot be read is a *CorruptError, and the partition stays unloaded.
func (c *Coordinator) Load(ctx context.Context, partition int32, log Log) error {
	if partition < 0 || partition >= c.parts {
		return fmt.Errorf("group: there is no __consumer_offsets-%d, only %d partitions", partition, c.parts)
	}
	c.mu.Lock()
	s := newShard(c, partition, log)
	switch {
	case c.closed:
		c.mu.Unlock()
		return errors.New("group: coordinator is closed")
	case c.shards[partition].Load() != nil:
		c.mu.Unlock()
		return fmt.Errorf("group: __consumer_offsets-%d is loaded already", partition)
	}
	c.shards[partition].Store(s)
	c.mu.Unlock()

	begin := time.Now()
	err := log.Replay(ctx, func(b record.Batch) error {
		s.mu.Lock()
		gone := s.phase == closed
		s.mu.Unlock()
		if gone {
			return errClosing
		}
		return s.replay(b)
	})
	if err == nil {
		err = s.open()
	}
	if err != nil {
		c.shards[partition].CompareAndSwap(s, nil)
		s.mu.Lock()
		s.phase = closed
		left := s.queue
		s.queue = nil
		s.mu.Unlock()
		refuseAll(left)
		s.release()
		return fmt.Errorf("group: load __consumer_offsets-%d: %w", partition, err)
	}
	metricLoad.UpdateDuration(begin)
	return nil
}

// open makes the cores of what was replayed and starts the writer.
func (s *shard) open() error {
	var fx effects
	now := s.c.deps.Now()
	s.mu.Lock()
	if s.phase == closed {
		s.mu.Unlock()
		return errClosing
	}
	s.phase = active
	for id := range s.durable {
		s.remember(id, now, &fx)
	}
	groups, offsets := len(s.groups), 0
	for _, d := range s.durable {
		offsets += d.count
	}
	s.c.timers.soonest(s.retention, now.Add(s.c.config().RetentionCheck))
	go s.writer()
	s.mu.Unlock()
	fx.send(s.c.deps.Log)
	s.c.deps.Log.Info("groups loaded", "partition", s.partition, "groups", groups, "offsets", offsets)
	return nil
}

// Unload stops answering for one partition; replies that wait get
// NOT_COORDINATOR. It returns when nothing is appended to the log any more.
func (c *Coordinator) Unload(partition int32) {
	if partition < 0 || partition >= c.parts {
		return
	}
	if s := c.shards[partition].Swap(nil); s != nil {
		s.close()
	}
}

// Close unloads every partition and stops the timers. Later calls are
// answered NOT_COORDINATOR.
func (c *Coordinator) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.mu.Unlock()
	for i := range c.shards {
		c.Unload(int32(i))
	}
	c.timers.close()
}

// account adds to the coordinator's estimate of its memory.
func (c *Coordinator) account(n int64) {
	c.bytes.Add(n)
	metricBytes.Add(float64(n))
}

func (c *Coordinator) full() bool { return c.bytes.Load() >= c.config().MaxBytes }

// acquire finds the shard of a group and locks it. On an error nothing is
// locked.
func (c *Coordinator) acquire(group string) (*shard, *kerr.Error) {
	s := c.shards[c.PartitionFor(group)].Load()
	if s == nil {
		return nil, kerr.NotCoordinator
	}
	s.mu.Lock()
	if err := s.available(); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	return s, nil
}

// all gives the shards that are loaded or loading.
func (c *Coordinator) all() []*shard {
	var out []*shard
	for i := range c.shards {
		if s := c.shards[i].Load(); s != nil {
			out = append(out, s)
		}
	}
	return out
}

// DropTopic deletes the offsets that any group committed for a deleted topic.
// It returns at once. Offsets of another topic of that name stay; those that
// do not say whose they are count as the deleted topic's.
func (c *Coordinator) DropTopic(name string, id record.TopicID) {
	for _, s := range c.all() {
		s.submit(op{run: func() { s.dropTopic(name, id) }})
	}
}

func code(err *kerr.Error) int16 {
	if err == nil {
		return 0
	}
	return err.Code
}
