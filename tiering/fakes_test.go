package tiering

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testCluster = "cluster-1"

var errCrash = errors.New("the process is gone")

// world is what outlives a Manager: bucket, metastore, clock and logs.
type world struct {
	t     testing.TB
	mu    sync.Mutex
	objs  map[string]memObject
	ptrs  map[partKey]metastore.TierPointer
	gone  map[record.TopicID]bool
	epoch map[partKey]record.Epoch
	rev   int64
	now   time.Time
	trace []string // of calls, when tracing
	on    bool
	ids   uint64

	// life is how many I/O calls succeed before the process dies: the next
	// does its work (doneAt) or not and fails, as all later ones. < 0: never.
	life   int
	doneAt bool
	dying  bool
	// fault, if set, may fail a call before (done false) or after its work.
	fault func(op, key string, done bool) error
	// mangle, if set, may change what a GET gives.
	mangle func(key string, off int64, b []byte) []byte
	hang   func(op, key string) <-chan struct{}
}

type memObject struct {
	data []byte
	etag string
	mod  time.Time
}

func newWorld(t testing.TB) *world {
	return &world{
		t: t, objs: map[string]memObject{}, ptrs: map[partKey]metastore.TierPointer{}, gone: map[record.TopicID]bool{},
		epoch: map[partKey]record.Epoch{}, now: time.UnixMilli(1_700_000_000_000), life: -1,
	}
}

func (w *world) clock() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now }

func (w *world) advance(d time.Duration) { w.mu.Lock(); w.now = w.now.Add(d); w.mu.Unlock() }

// step is called with w.mu held, before a call's work (done false) and after.
func (w *world) step(op, key string, done bool) error {
	if w.fault != nil {
		if err := w.fault(op, key, done); err != nil {
			return err
		}
	}
	switch {
	case w.life < 0:
	case done && w.dying:
		w.dying = false
		return errCrash
	case done:
	case w.life > 0:
		w.life--
	case w.doneAt:
		w.doneAt, w.dying = false, true
	default:
		return errCrash
	}
	return nil
}

// hangAt makes calls wait for the channels that f gives, nil: none.
func (w *world) hangAt(f func(op, key string) <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hang = f
}

// do runs f as one I/O call.
func (w *world) do(ctx context.Context, op, key string, note string, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	hang := w.hang
	w.mu.Unlock()
	if hang != nil {
		if ch := hang(op, key); ch != nil {
			select {
			case <-ch:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.on {
		w.trace = append(w.trace, note)
	}
	if err := w.step(op, key, false); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return w.step(op, key, true)
}

type memStore struct{ w *world }

func (s memStore) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (objectstore.Object, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return objectstore.Object{}, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return objectstore.Object{}, err
	}
	if int64(len(data)) != size {
		s.w.t.Errorf("%s: %d bytes to read, %d promised", key, len(data), size)
	}
	var o objectstore.Object
	err = s.w.do(ctx, "put", key, fmt.Sprintf("PUT %s %d", s.w.name(key), len(data)), func() error {
		if _, ok := s.w.objs[key]; ok {
			return objectstore.ErrExists
		}
		o = s.w.write(key, data)
		return nil
	})
	return o, err
}

func (w *world) write(key string, data []byte) objectstore.Object {
	w.rev++
	o := memObject{data: slices.Clone(data), etag: fmt.Sprint("e", w.rev), mod: w.now}
	w.objs[key] = o
	return objectstore.Object{Key: key, Size: int64(len(data)), Modified: o.mod, ETag: o.etag}
}

func (s memStore) Swap(ctx context.Context, key string, data []byte, etag string) (o objectstore.Object, err error) {
	err = s.w.do(ctx, "swap", key, fmt.Sprintf("SWAP %s", s.w.name(key)), func() error {
		if s.w.objs[key].etag != etag {
			return objectstore.ErrExists
		}
		o = s.w.write(key, data)
		return nil
	})
	return o, err
}

func (s memStore) GetRange(ctx context.Context, key string, off, n int64) (rc io.ReadCloser, err error) {
	err = s.w.do(ctx, "get", key, fmt.Sprintf("GET %s [%d,+%d)", s.w.name(key), off, n), func() error {
		obj, ok := s.w.objs[key]
		if !ok {
			return objectstore.ErrNotFound
		}
		if off > int64(len(obj.data)) {
			return objectstore.ErrRange
		}
		b := obj.data[off:]
		if n >= 0 && n < int64(len(b)) {
			b = b[:n]
		}
		b = slices.Clone(b)
		if s.w.mangle != nil {
			b = s.w.mangle(key, off, b)
		}
		rc = io.NopCloser(bytes.NewReader(b))
		return nil
	})
	return rc, err
}

func (s memStore) Head(ctx context.Context, key string) (o objectstore.Object, err error) {
	err = s.w.do(ctx, "head", key, "HEAD "+s.w.name(key), func() error {
		obj, ok := s.w.objs[key]
		if !ok {
			return objectstore.ErrNotFound
		}
		o = objectstore.Object{Key: key, Size: int64(len(obj.data)), ETag: obj.etag, Modified: obj.mod}
		return nil
	})
	return o, err
}

func (s memStore) List(ctx context.Context, prefix, after string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		var list []objectstore.Object
		err := s.w.do(ctx, "list", prefix, "LIST", func() error {
			for k, o := range s.w.objs {
				if strings.HasPrefix(k, prefix) && k > after {
					list = append(list, objectstore.Object{Key: k, Size: int64(len(o.data)), ETag: o.etag, Modified: o.mod})
				}
			}
			return nil
		})
		if err != nil {
			yield(objectstore.Object{}, err)
			return
		}
		slices.SortFunc(list, func(a, b objectstore.Object) int { return strings.Compare(a.Key, b.Key) })
		for _, o := range list {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (s memStore) Delete(ctx context.Context, key string) error {
	return s.w.do(ctx, "delete", key, "DELETE "+s.w.name(key), func() error {
		delete(s.w.objs, key)
		return nil
	})
}

func (s memStore) String() string { return "memory" }
func (s memStore) Close() error   { return nil }

// name makes keys short and the same in each run.
func (w *world) name(key string) string {
	if id, ok := parseKey(testCluster, key); ok {
		return fmt.Sprintf("object-%d", binary.BigEndian.Uint64(id[8:])&(1<<62-1))
	}
	return key
}

type memMeta struct{ w *world }

func (m memMeta) TierPointer(ctx context.Context, id record.TopicID, p record.PartitionID) (tp metastore.TierPointer, err error) {
	err = m.w.do(ctx, "pointer", "", "etcd read", func() error {
		tp = m.w.ptrs[partKey{id, p}]
		return nil
	})
	return tp, err
}

func (m memMeta) CommitTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64, epoch record.Epoch, value []byte) (rev int64, err error) {
	if len(value) > maxPointer {
		m.w.t.Errorf("pointer of %d bytes", len(value))
	}
	err = m.w.do(ctx, "cas", "", "etcd swap", func() error {
		k := partKey{id, p}
		if m.w.ptrs[k].Revision != expect || m.w.gone[id] || m.w.epoch[k] != epoch {
			return fmt.Errorf("%w: %v", metastore.ErrConflict, k)
		}
		m.w.rev++
		rev = m.w.rev
		m.w.ptrs[k] = metastore.TierPointer{Value: slices.Clone(value), Revision: rev}
		return nil
	})
	return rev, err
}

func (m memMeta) DeleteTierPointer(ctx context.Context, id record.TopicID, p record.PartitionID, expect int64) error {
	return m.w.do(ctx, "drop", "", "etcd delete", func() error {
		k := partKey{id, p}
		if m.w.ptrs[k].Revision != expect {
			return metastore.ErrConflict
		}
		delete(m.w.ptrs, k)
		return nil
	})
}

func (m memMeta) TierPointers(ctx context.Context) iter.Seq2[metastore.TierPointerEntry, error] {
	return func(yield func(metastore.TierPointerEntry, error) bool) {
		var list []metastore.TierPointerEntry
		err := m.w.do(ctx, "pointers", "", "etcd list", func() error {
			for k, tp := range m.w.ptrs {
				list = append(list, metastore.TierPointerEntry{ID: k.id, Partition: k.p, TierPointer: tp})
			}
			return nil
		})
		if err != nil {
			yield(metastore.TierPointerEntry{}, err)
			return
		}
		slices.SortFunc(list, func(a, b metastore.TierPointerEntry) int {
			return partKey{a.ID, a.Partition}.compare(partKey{b.ID, b.Partition})
		})
		for _, e := range list {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (m memMeta) TierPointersOf(ctx context.Context, id record.TopicID) iter.Seq2[metastore.TierPointerEntry, error] {
	return func(yield func(metastore.TierPointerEntry, error) bool) {
		for e, err := range m.TierPointers(ctx) {
			if (err != nil || e.ID == id) && !yield(e, err) {
				return
			}
		}
	}
}

// Image makes memMeta say which topics there are.
func (m memMeta) Image() *metastore.Image {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	im := &metastore.Image{TopicIDs: map[record.TopicID]*metastore.Topic{}}
	for k := range m.w.epoch {
		if !m.w.gone[k.id] {
			im.TopicIDs[k.id] = &metastore.Topic{ID: k.id}
		}
	}
	return im
}

// memLog is a partition's local log: every batch it ever had, for comparison,
// and the segments that it still has.
type memLog struct {
	tp record.TopicPartition
	id record.TopicID

	mu        sync.Mutex
	batches   []record.Batch // all, whatever was deleted
	segs      []memSeg
	end       record.Offset
	logStart  record.Offset
	tieredEnd record.Offset
	bad       error // OpenSealed gives it
	plain     bool  // seal compresses nothing
}

type memSeg struct {
	record.Segment
	data    []byte
	aborted []record.AbortedTxn
}

func newLog(w *world, topic string, p record.PartitionID) *memLog {
	l := &memLog{tp: record.TopicPartition{Topic: topic, Partition: p}}
	copy(l.id[:], topic+"................")
	w.mu.Lock()
	w.epoch[partKey{l.id, p}] = 0
	w.mu.Unlock()
	return l
}

// seal appends a segment of n batches, each of about size bytes of records
// from r, with times around ts.
func (l *memLog) seal(t testing.TB, r *rand.Rand, n, size int, ts int64) record.Segment {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := memSeg{Segment: record.Segment{Base: l.end, MaxTimestamp: -1, MaxTSOffset: -1}}
	for range n {
		recs := make([]record.Record, 1+r.IntN(4))
		for i := range recs {
			v := make([]byte, size/len(recs))
			for k := range v {
				v[k] = byte(r.Uint32())
			}
			recs[i] = record.Record{Offset: l.end + record.Offset(i), Timestamp: ts + r.Int64N(1000), Value: v}
			if recs[i].Timestamp > s.MaxTimestamp {
				s.MaxTimestamp, s.MaxTSOffset = recs[i].Timestamp, recs[i].Offset
			}
		}
		codec := record.None
		if r.IntN(3) == 0 && !l.plain {
			codec = record.LZ4
		}
		b, err := record.NewBatch(record.BatchSpec{BaseOffset: l.end, Codec: codec, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, recs)
		if err != nil {
			t.Fatal(err)
		}
		l.batches = append(l.batches, b)
		s.data = append(s.data, b...)
		l.end = b.LastOffset() + 1
	}
	s.End, s.Bytes = l.end, int64(len(s.data))
	l.segs = append(l.segs, s)
	return s.Segment
}

func (l *memLog) TP() record.TopicPartition { return l.tp }
func (l *memLog) TopicID() record.TopicID   { return l.id }

func (l *memLog) Sealed(from record.Offset) (list []record.Segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segs {
		if s.End > from {
			list = append(list, s.Segment)
		}
	}
	return list
}

func (l *memLog) OpenSealed(base record.Offset) (*record.SealedFiles, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bad != nil {
		return nil, l.bad
	}
	for _, s := range l.segs {
		if s.Base == base {
			return &record.SealedFiles{
				Segment: s.Segment, Data: bytes.NewReader(s.data), Aborted: s.aborted,
				Epochs: []record.EpochStart{{Epoch: 0, Start: 0}}, Producers: []byte("producers"), Close: func() {},
			}, nil
		}
	}
	return nil, fmt.Errorf("no segment %d", base)
}

func (l *memLog) SetTieredEnd(end record.Offset) {
	l.mu.Lock()
	l.tieredEnd = max(l.tieredEnd, end)
	l.mu.Unlock()
}

func (l *memLog) AdvanceLogStart(o record.Offset) error {
	l.mu.Lock()
	l.logStart = max(l.logStart, o)
	l.dropBelow(l.logStart)
	l.mu.Unlock()
	return nil
}

func (l *memLog) LogStart() record.Offset {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.logStart
}

func (l *memLog) dropBelow(o record.Offset) {
	for len(l.segs) > 0 && l.segs[0].End <= o {
		l.segs = l.segs[1:]
	}
}

// dropLocal is local retention: what is tiered goes.
func (l *memLog) dropLocal() {
	l.mu.Lock()
	l.dropBelow(l.tieredEnd)
	l.mu.Unlock()
}

// bytesFrom gives the batches that hold offsets in [from, end).
func (l *memLog) bytesFrom(from, end record.Offset) (b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, batch := range l.batches {
		if batch.LastOffset() >= from && batch.BaseOffset() < end {
			b = append(b, batch...)
		}
	}
	return b
}

// manager makes a Manager without its loop: tests drive its steps.
func (w *world) manager(t testing.TB, cfg Config) *Manager {
	t.Helper()
	c, err := cache.Open(cache.Config{Dir: t.TempDir(), MaxBytes: 64 << 20, ChunkBytes: cfg.ChunkBytes}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return w.managerWith(t, cfg, c, true)
}

var quiet = slog.New(slog.DiscardHandler)

func (w *world) managerWith(t testing.TB, cfg Config, c *cache.Cache, own bool) *Manager {
	t.Helper()
	m, err := newManager(cfg, Deps{Log: quiet, Store: memStore{w}, Meta: memMeta{w}, Cache: c, Now: w.clock, ClusterID: testCluster})
	if err != nil {
		t.Fatal(err)
	}
	m.newID = func() ObjectID {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ids++
		id := newObjectID(w.now)
		id[6], id[7] = 7<<4, 0
		binary.BigEndian.PutUint64(id[8:], 2<<62|w.ids)
		return id
	}
	t.Cleanup(func() {
		m.Close(context.Background())
		if own {
			c.Close()
		}
	})
	return m
}

// uploadAll runs upload rounds until there is nothing to do or nothing goes.
func (m *Manager) uploadAll() {
	for range 100 {
		jobs := m.plan(8)
		if len(jobs) == 0 {
			return
		}
		for _, j := range jobs {
			m.run(j)
		}
	}
}

// chores runs one round of what the tick does, at once.
func (m *Manager) choresNow() {
	for _, p := range m.attached() {
		v := p.view.Load()
		if v != nil && v.rev != 0 && m.hasChore(p, v) && p.hold(m.deps.Now()) {
			m.outcome(p, m.chore(p))
			p.release()
		}
	}
}

func attach(t testing.TB, m *Manager, l Hot, pol Policy) {
	t.Helper()
	if err := attachHot(m, l, pol); err != nil {
		t.Fatal(err)
	}
}

func attachHot(m *Manager, l Hot, pol Policy) error {
	tp, err := m.Pointers(context.Background(), l.TopicID(), 1)(l.TP().Partition)
	if err != nil {
		return err
	}
	return m.Attach(l, tp, pol)
}

var keepAll = Policy{Enabled: true, RetentionBytes: -1, Retention: -1}

// replay reads the tiered part from start to end and compares every byte.
func replay(t testing.TB, m *Manager, l *memLog, maxBytes int) {
	t.Helper()
	start, end := m.ColdRange(l.id, l.tp)
	for at := start; at < end; {
		spans, _, err := m.ReadCold(context.Background(), l.id, l.tp, at, maxBytes)
		if err != nil {
			t.Fatalf("%v at %d of [%d, %d): %v", l.tp, at, start, end, err)
		}
		got := flat(t, spans)
		record.ReleaseSpans(spans)
		next := at
		for rest := got; len(rest) > 0; {
			var b record.Batch
			if b, rest, err = record.Next(rest); err != nil {
				t.Fatal(err)
			}
			if err := b.CheckCRC(); err != nil {
				t.Fatal(err)
			}
			next = b.LastOffset() + 1
		}
		if next == at {
			t.Fatalf("%v at %d of [%d, %d): nothing came", l.tp, at, start, end)
		}
		if !bytes.Equal(got, l.bytesFrom(at, next)) {
			t.Fatalf("%v [%d, %d): other bytes than were written", l.tp, at, next)
		}
		at = next
	}
}

func flat(t testing.TB, spans []record.Span) (b []byte) {
	t.Helper()
	for _, s := range spans {
		p := make([]byte, s.Size())
		if _, err := s.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		b = append(b, p...)
	}
	return b
}

func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 99)) }

// reachable checks invariant 6: everything that a pointer refers to is in the
// bucket, whole. It gives the keys referred to.
func (w *world) reachable(t testing.TB) map[string]bool {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := map[string]bool{}
	for k, tp := range w.ptrs {
		ptr, err := DecodePointer(tp.Value)
		if err != nil {
			t.Fatal(err)
		}
		entries := ptr.Tail
		if !ptr.Manifest.IsZero() {
			key := ObjectKey(testCluster, ptr.Manifest)
			keys[key] = true
			man, err := DecodeManifest(w.objs[key].data)
			if err != nil {
				t.Fatalf("manifest of %v: %v", k, err)
			}
			entries = append(man.Entries, ptr.Tail...)
		}
		next := ptr.Start
		for _, e := range entries {
			if e.End <= ptr.Start {
				continue
			}
			if e.Base > next {
				t.Fatalf("%v: nothing for [%d, %d)", k, next, e.Base)
			}
			next = e.End
			key := ObjectKey(testCluster, e.Object)
			keys[key] = true
			obj, ok := w.objs[key]
			if !ok {
				t.Fatalf("%v [%d, %d): object %s was deleted", k, e.Base, e.End, key)
			}
			if _, err := ReadFooter(bytes.NewReader(obj.data), int64(len(obj.data))); err != nil {
				t.Fatalf("%s: %v", key, err)
			}
		}
		if next != ptr.End {
			t.Fatalf("%v: entries end at %d, pointer at %d", k, next, ptr.End)
		}
	}
	return keys
}

// localOrTiered checks invariant 5: what the local log no longer has and is
// not below its start is tiered.
func (w *world) localOrTiered(t testing.TB, l *memLog) {
	t.Helper()
	w.mu.Lock()
	tp := w.ptrs[partKey{l.id, l.tp.Partition}]
	w.mu.Unlock()
	var end record.Offset
	if tp.Revision != 0 {
		ptr, err := DecodePointer(tp.Value)
		if err != nil {
			t.Fatal(err)
		}
		end = ptr.End
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tieredEnd > end {
		t.Fatalf("%v: told that [.., %d) is tiered, the pointer ends at %d", l.tp, l.tieredEnd, end)
	}
	local := l.end
	if len(l.segs) > 0 {
		local = l.segs[0].Base
	}
	if local > max(end, l.logStart) {
		t.Fatalf("%v: [%d, %d) is neither local nor tiered", l.tp, max(end, l.logStart), local)
	}
}
