package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// offsetsTopic is where groups keep their offsets and memberships.
const offsetsTopic = "__consumer_offsets"

// groups gives the group coordinator its log: one partition of offsetsTopic
// each, loaded when this broker leads it.
type groups struct {
	coord        *group.Coordinator
	meta         *metastore.Store
	node         record.BrokerID
	parts        int32
	log          *slog.Logger
	replicas     int16          // of offsetsTopic, when it is made; fewer if there are fewer brokers
	members      int            // of etcd: the topic is not made with fewer replicas for want of those
	segmentBytes int            // of offsetsTopic, when it is made
	drained      func() []int32 // brokers that it is not put on
	await        func(ctx context.Context, revision int64) error

	ctx    context.Context // of the loads; ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{} // bounds the loads that run at once
	retry  time.Duration // from a failed load to the next

	create sync.Mutex // one creation of the topic at a time

	mu     sync.Mutex // guards what follows, and wg against an Add after close
	loads  map[int32]load
	closed bool
}

func newGroups(coord *group.Coordinator, meta *metastore.Store, node record.BrokerID, parts int32, log *slog.Logger) *groups {
	ctx, cancel := context.WithCancel(context.Background())
	return &groups{coord: coord, meta: meta, node: node, parts: parts, log: log, ctx: ctx, cancel: cancel, slots: make(chan struct{}, 4), retry: time.Second, loads: map[int32]load{}}
}

// ensureTopic makes offsetsTopic unless it is there, and returns once its
// partitions are open.
func (g *groups) ensureTopic(ctx context.Context) error {
	if g.meta.Image().Topics[offsetsTopic] != nil {
		return nil
	}
	g.create.Lock()
	defer g.create.Unlock()
	if g.meta.Image().Topics[offsetsTopic] != nil {
		return nil
	}
	spec, err := g.spec(g.meta.Image())
	if err != nil {
		return fmt.Errorf("create %s: %w", offsetsTopic, err)
	}
	results, rev, err := g.meta.CreateTopics(ctx, []metastore.TopicSpec{spec})
	if err != nil {
		return fmt.Errorf("create %s: %w", offsetsTopic, err)
	}
	if err := results[0].Err; err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create %s: %w", offsetsTopic, err)
	}
	return g.await(ctx, rev)
}

// spec is offsetsTopic as it is made. Three replicas or more: what is committed
// is on two of them at least, and the loss of a disk takes none of it.
func (g *groups) spec(img *metastore.Image) (metastore.TopicSpec, error) {
	spec := metastore.TopicSpec{
		Name:       offsetsTopic,
		Internal:   true,
		Configs:    map[string]string{"segment.bytes": strconv.Itoa(g.segmentBytes), "retention.ms": "-1"},
		Assignment: make([][]record.BrokerID, g.parts),
	}
	brokers := slices.DeleteFunc(slices.Sorted(maps.Keys(img.Brokers)), func(id record.BrokerID) bool {
		return slices.Contains(g.drained(), int32(id))
	})
	if len(brokers) == 0 {
		return spec, errors.New("firn.drained.brokers names every live broker")
	}
	replicas := min(int(g.replicas), len(brokers))
	if want := min(int(g.replicas), g.members); replicas < want {
		return spec, fmt.Errorf("%d brokers of those that --seeds names are here, %d replicas are wanted (offsets.topic.replication.factor): start the others", len(brokers), want)
	}
	if replicas > 2 {
		spec.Configs["min.insync.replicas"] = "2"
	}
	for i := range spec.Assignment {
		for r := range replicas {
			spec.Assignment[i] = append(spec.Assignment[i], brokers[(i+r)%len(brokers)])
		}
	}
	return spec, nil
}

// apply loads what of ot this broker leads, under a leader epoch that was not
// loaded yet, and unloads what it leads no longer.
func (g *groups) apply(ot *openTopic) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	for i := range g.parts {
		var p *partition.Partition
		epoch := record.Epoch(-1)
		if ot != nil && int(i) < len(ot.partitions) && ot.partitions[i] != nil && ot.partitions[i].Leads() {
			p, epoch = ot.partitions[i], ot.roles[i].epoch
		}
		was, ok := g.loads[i]
		if ok && p != nil && was.epoch == epoch || !ok && p == nil {
			continue
		}
		if ok {
			was.end()
			delete(g.loads, i)
		}
		if p == nil {
			g.wg.Go(func() { <-was.done; g.coord.Unload(i) })
			continue
		}
		ctx, cancel := context.WithCancel(g.ctx)
		now := load{epoch: epoch, end: cancel, done: make(chan struct{})}
		g.loads[i] = now
		g.wg.Go(func() {
			defer close(now.done)
			if ok {
				<-was.done
				g.coord.Unload(i)
			}
			g.load(ctx, i, &groupLog{p: p})
		})
	}
}

// load is the loading of one partition under one leader epoch.
type load struct {
	epoch record.Epoch
	end   context.CancelFunc
	done  chan struct{} // closed when it is loaded, or given up
}

// load loads one partition, and tries again after a failure: a disk that
// hiccuped must not keep its groups away until the next start.
func (g *groups) load(ctx context.Context, i int32, log group.Log) {
	pause := g.retry
	for failed := 0; ; failed++ {
		err := g.tryLoad(ctx, i, log)
		if err == nil || ctx.Err() != nil {
			return
		}
		if failed == 0 {
			g.log.Error("groups of this partition are not available; it is tried again", "topic", offsetsTopic, "partition", i, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Minute)
	}
}

func (g *groups) tryLoad(ctx context.Context, i int32, log group.Log) error {
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g.slots }()
	return g.coord.Load(ctx, i, log)
}

func (g *groups) dropTopic(name string, id record.TopicID) { g.coord.DropTopic(name, id) }

// topicID gives the id of the topic that has a name now, zero for none. A
// topic that the metastore cannot read counts as none: its offsets stay.
func topicID(meta *metastore.Store) func(string) record.TopicID {
	return func(name string) record.TopicID {
		if t := meta.Image().Topics[name]; t != nil {
			return t.ID
		}
		return record.TopicID{}
	}
}

func (g *groups) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.wg.Wait()
	g.coord.Close()
}

// groupLog is a partition of offsetsTopic as the coordinator sees it.
type groupLog struct{ p *partition.Partition }

// Append returns when the batch is as durable as acks=all makes it.
func (l *groupLog) Append(batch record.Batch) (record.Offset, error) {
	res, err := l.p.Append(batch, partition.Coordinator)
	if err != nil {
		return -1, err
	}
	done := make(chan error, 1)
	l.p.AwaitHighWatermark(res.LastOffset+1, func(err error) { done <- err })
	return res.BaseOffset, <-done
}

// replayBytes is how much Replay reads at a time.
const replayBytes = 1 << 20

func (l *groupLog) Replay(ctx context.Context, fn func(record.Batch) error) error {
	if err := l.p.AwaitSettled(ctx); err != nil {
		return err
	}
	st := l.p.State()
	for next := st.LogStart; next < st.HighWatermark; {
		res, err := l.p.Read(ctx, partition.ReadRequest{Offset: next, MaxBytes: replayBytes, MinOneBatch: true, CurrentEpoch: -1, LastFetchedEpoch: -1})
		if err != nil {
			return err
		}
		last, err := eachBatch(res.Spans, fn)
		if err != nil {
			return fmt.Errorf("%v from offset %d: %w", l.p.TP(), next, err)
		}
		if last < next {
			return fmt.Errorf("%v: nothing to read at offset %d below the high watermark %d", l.p.TP(), next, st.HighWatermark)
		}
		next = last + 1
	}
	return nil
}

// eachBatch reads spans into memory, releases them and calls fn with each
// whole batch; it returns the last offset seen, -1 for none.
func eachBatch(spans []record.Span, fn func(record.Batch) error) (record.Offset, error) {
	defer record.ReleaseSpans(spans)
	buf := make([]byte, record.SpansSize(spans))
	n := 0
	for _, s := range spans {
		size := int(s.Size())
		if _, err := s.ReadAt(buf[n:n+size], 0); err != nil {
			return -1, err
		}
		n += size
	}
	last := record.Offset(-1)
	for len(buf) > 0 {
		b, rest, err := record.Next(buf)
		if errors.Is(err, record.ErrShort) && last >= 0 {
			break // a read may cut its last batch
		}
		if err != nil {
			return last, err
		}
		if err := b.CheckCRC(); err != nil {
			return last, err
		}
		if err := fn(b); err != nil {
			return last, err
		}
		last, buf = b.LastOffset(), rest
	}
	return last, nil
}

// TrimTo drops what lies below o.
func (l *groupLog) TrimTo(o record.Offset) error {
	_, err := l.p.DeleteRecords(o)
	return err
}

// End is the offset that the next record gets.
func (l *groupLog) End() record.Offset { return l.p.State().LogEnd }
