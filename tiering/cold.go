package tiering

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// storageErr makes an error that Kafka clients retry, with the cause.
func storageErr(tp record.TopicPartition, o record.Offset, err error) error {
	return fmt.Errorf("%v at offset %d: %w: %w", tp, o, kerr.KafkaStorageError, err)
}

func outOfRange(tp record.TopicPartition, o record.Offset) error {
	return fmt.Errorf("%v: %w: offset %d is not in the tiered part", tp, kerr.OffsetOutOfRange, o)
}

var errNotAttached = errors.New("the partition is not attached to tiering (yet)")

// ColdRange gives what is tiered: [start, end). start == end: nothing, or the
// partition is not attached.
func (m *Manager) ColdRange(id record.TopicID, tp record.TopicPartition) (start, end record.Offset) {
	p := m.part(id, tp.Partition)
	if p == nil {
		return 0, 0
	}
	v := p.view.Load()
	if v == nil {
		return 0, 0
	}
	return v.ptr.Start, v.ptr.End
}

// locate gives the partition, its view and the entry that holds o.
func (m *Manager) locate(ctx context.Context, id record.TopicID, tp record.TopicPartition, o record.Offset) (*part, *view, int, error) {
	if m.ctx.Err() != nil {
		return nil, nil, 0, storageErr(tp, o, ErrClosed)
	}
	p := m.part(id, tp.Partition)
	if p == nil {
		// Whether it is in the tiered part is not known: clients must not
		// reset their offsets because of that.
		return nil, nil, 0, storageErr(tp, o, errNotAttached)
	}
	if err := m.catchUp(ctx, p, o); err != nil {
		return nil, nil, 0, storageErr(tp, o, err)
	}
	v := p.view.Load()
	if v == nil {
		p.mu.Lock()
		err := p.failed
		p.mu.Unlock()
		return nil, nil, 0, storageErr(tp, o, fmt.Errorf("the pointer cannot be read: %w", err))
	}
	if !v.contains(o) {
		return nil, nil, 0, outOfRange(tp, o)
	}
	i, ok := findEntry(v.entries(), o)
	if !ok {
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		if v.loaded {
			err = errors.New("the manifest has no entry for it")
		} else if err == nil {
			err = errors.New("it is on its way")
		}
		return nil, nil, 0, storageErr(tp, o, fmt.Errorf("manifest not loaded: %w", err))
	}
	return p, v, i, nil
}

// ReadCold gives whole batches, the first of which contains offset from (or,
// where compaction or a deleted range left a hole, is the next one), about
// maxBytes of them but at least one, all from one run, and the aborted
// transactions among them. The caller releases the spans. It returns early
// with no spans and no error when ctx ends before the first batch is there:
// the fetch goes on and its bytes stay cached.
func (m *Manager) ReadCold(ctx context.Context, id record.TopicID, tp record.TopicPartition, from record.Offset, maxBytes int) ([]record.Span, []record.AbortedTxn, error) {
	coldReads.Inc()
	p, v, i, err := m.locate(ctx, id, tp, from)
	if err != nil {
		coldReadFailures.Inc()
		return nil, nil, err
	}
	var spans []record.Span
	var aborted []record.AbortedTxn
	for entries := v.entries(); i < len(entries); i++ {
		spans, aborted, err = m.readRun(ctx, p, v, i, from, maxBytes)
		if err != nil || len(spans) > 0 || ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		return spans, aborted, nil
	}
	record.ReleaseSpans(spans)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil, nil, nil
	}
	coldReadFailures.Inc()
	return nil, nil, storageErr(tp, from, err)
}

// readRun reads from one run: none of it when the run has no batch at or
// after from.
func (m *Manager) readRun(ctx context.Context, p *part, v *view, i int, from record.Offset, maxBytes int) ([]record.Span, []record.AbortedTxn, error) {
	e := &v.entries()[i]
	r, err := m.cold.index(ctx, p, v.ptr.Cluster, e)
	if err != nil {
		return nil, nil, err
	}
	maxBytes = min(max(maxBytes, 1), m.cfg.ColdRangeLimit)
	w := newWalker(ctx, m.cold, r)
	defer w.release()
	s, sequential := p.stream(from)
	if sequential && s.lastBlock.object == e.Object {
		w.counted = s.lastBlock.pos
	}
	pos := r.floor(from)
	m.cold.ahead1(p, r, pos, int64(maxBytes))
	first, err := w.find(&pos, from)
	if err != nil || first == nil {
		return nil, nil, err
	}
	end, last := w.extent(pos, first, maxBytes)
	spans, err := w.cut(pos, end)
	if err != nil {
		return nil, nil, err
	}
	s = p.advance(s, sequential, last+1, indexKey{e.Object, (r.Position + end - 1) / int64(r.Block)}, m.cfg.Readahead)
	m.readahead(p, v, i, r, end, s.window)
	aborted, err := m.abortedIn(ctx, p, v, i, r, from, last)
	if err != nil {
		record.ReleaseSpans(spans)
		return nil, nil, err
	}
	return spans, aborted, nil
}

// floor gives the position of the last indexed batch at or before o.
func (r *Run) floor(o record.Offset) int64 {
	i := sort.Search(len(r.Offsets), func(i int) bool { return r.Offsets[i].Offset > o })
	return r.Offsets[max(i-1, 0)].Position
}

// abortedIn lists the aborted transactions that have records in [from, last]:
// their markers are in this run or in a later one.
func (m *Manager) abortedIn(ctx context.Context, p *part, v *view, i int, r *run, from, last record.Offset) (list []record.AbortedTxn, err error) {
	if !v.aborted {
		return nil, nil
	}
	entries := v.entries()
	for k := i; k < len(entries); k++ {
		e := &entries[k]
		if e.AbortedFrom < 0 || e.AbortedFrom > last {
			continue
		}
		if k > i {
			if r, err = m.cold.index(ctx, p, v.ptr.Cluster, e); err != nil {
				return nil, err
			}
		}
		for _, a := range r.Aborted {
			if a.LastOffset >= from && a.FirstOffset <= last {
				list = append(list, a)
			}
		}
	}
	return list, nil
}

// walker reads batch headers of one run through the cache, holding the blocks
// it has seen. It comes from a pool: release gives it back.
type walker struct {
	c       *coldReader
	ctx     context.Context
	r       *run
	held    []heldBlock
	counted int64 // block whose use by this reader is counted already, -1 for none
	win     [4 << 10]byte
	winPos  int64 // of win in the run
	winLen  int
}

type heldBlock struct {
	no   int64
	span record.Span
}

func newWalker(ctx context.Context, c *coldReader, r *run) *walker {
	w := walkers.Get().(*walker)
	w.c, w.ctx, w.r, w.counted = c, ctx, r, -1
	return w
}

var walkers = sync.Pool{New: func() any { return &walker{held: make([]heldBlock, 0, 8)} }}

func (w *walker) release() {
	for _, h := range w.held {
		h.span.Release()
	}
	clear(w.held)
	w.held, w.winLen = w.held[:0], 0
	w.c, w.ctx, w.r = nil, nil, nil
	walkers.Put(w)
}

// block gives a block, which stays the walker's.
func (w *walker) block(no int64) (record.Span, error) {
	for _, h := range w.held {
		if h.no == no {
			return h.span, nil
		}
	}
	span, err := w.c.block(w.ctx, w.r, no, no != w.counted)
	if err != nil {
		return record.Span{}, err
	}
	w.held = append(w.held, heldBlock{no, span})
	return span, nil
}

// ReadAt follows io.ReaderAt on the run's bytes.
func (w *walker) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := w.r.Position + off + int64(n)
		no := at / int64(w.r.Block)
		span, err := w.block(no)
		if err != nil {
			return n, err
		}
		in := at - no*int64(w.r.Block)
		k := int(min(int64(len(p)-n), span.Size()-in))
		if k <= 0 {
			return n, corruptf("run of %s ends before byte %d", w.r.key, off+int64(n))
		}
		if err := readFull(span, p[n:n+k], in); err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// header parses the batch header at pos; nil at the end of the run. It is
// good until the next call.
func (w *walker) header(pos int64) (record.Batch, error) {
	if pos >= w.r.Length {
		return nil, nil
	}
	if pos+record.HeaderSize > w.r.Length {
		return nil, corruptf("run of %s: %d bytes at %d are less than a batch", w.r.key, w.r.Length-pos, pos)
	}
	if pos < w.winPos || pos+record.HeaderSize > w.winPos+int64(w.winLen) {
		// Not beyond the block, so that a header does not wait for the next.
		no := (w.r.Position + pos) / int64(w.r.Block)
		inBlock := (no+1)*int64(w.r.Block) - w.r.Position - pos
		n := min(int64(len(w.win)), w.r.Length-pos, max(inBlock, record.HeaderSize))
		if _, err := w.ReadAt(w.win[:n], pos); err != nil {
			w.winLen = 0
			return nil, err
		}
		w.winPos, w.winLen = pos, int(n)
	}
	b, err := record.ParseHeader(w.win[pos-w.winPos : w.winLen])
	if err != nil {
		return nil, fmt.Errorf("run of %s, byte %d: %w: %w", w.r.key, pos, ErrCorrupt, err)
	}
	if b.Size() > w.r.Length-pos {
		return nil, corruptf("run of %s: batch of %d bytes at %d of %d", w.r.key, b.Size(), pos, w.r.Length)
	}
	return b, nil
}

// find moves pos on to the batch that contains o or is the next after it.
func (w *walker) find(pos *int64, o record.Offset) (record.Batch, error) {
	for {
		b, err := w.header(*pos)
		if b == nil || b.LastOffset() >= o {
			return b, err
		}
		*pos += b.Size()
	}
}

// extent says up to which position the batches from pos on fit maxBytes, the
// first in any case, and the last offset of them. It goes as far as blocks can
// be had before the reader's time is over; what is in the way of the rest is
// met by the next read.
func (w *walker) extent(pos int64, first record.Batch, maxBytes int) (end int64, last record.Offset) {
	limit := pos + int64(maxBytes)
	end, last = pos+first.Size(), first.LastOffset()
	// The index says where a batch begins near the limit.
	i := sort.Search(len(w.r.Offsets), func(i int) bool { return w.r.Offsets[i].Position > limit }) - 1
	if i >= 0 && w.r.Offsets[i].Position > end {
		// Wait for what lies between, as long as the reader does.
		if reached := w.waitFor(end, w.r.Offsets[i].Position); reached >= w.r.Offsets[i].Position {
			end, last = w.r.Offsets[i].Position, w.r.Offsets[i].Offset-1
		}
	}
	for {
		b, err := w.header(end)
		if err != nil || b == nil || end+b.Size() > limit || w.waitFor(end, end+b.Size()) < end+b.Size() {
			return end, last
		}
		end, last = end+b.Size(), b.LastOffset()
	}
}

// waitFor gets the blocks of [from, to) of the run and says up to where it
// has them.
func (w *walker) waitFor(from, to int64) int64 {
	for no := (w.r.Position + from) / int64(w.r.Block); no*int64(w.r.Block) < w.r.Position+to; no++ {
		if _, err := w.block(no); err != nil {
			return max(from, no*int64(w.r.Block)-w.r.Position)
		}
	}
	return to
}

// cut gives spans of [pos, end) of the run, for the caller to release.
func (w *walker) cut(pos, end int64) ([]record.Span, error) {
	block := int64(w.r.Block)
	spans := make([]record.Span, 0, (end-pos)/block+2)
	for at := w.r.Position + pos; at < w.r.Position+end; {
		no := at / block
		span, err := w.block(no)
		if err != nil {
			record.ReleaseSpans(spans)
			return nil, err
		}
		in := at - no*block
		n := min(span.Size()-in, w.r.Position+end-at)
		spans = append(spans, span.Part(in, n))
		at += n
	}
	return spans, nil
}
