package tiering

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/firnlog/firn/objectstore"
	"github.com/firnlog/firn/record"
)

// job is one object to be made: segments of held partitions, those of one
// partition next to each other.
type job []jobRun

type jobRun struct {
	part *part
	view *view // at planning
	seg  record.Segment
}

// errGap says that the local log begins after the tiered part ends.
var errGap = errors.New("records between the tiered part and the local log are missing")

// plan holds the partitions that have something to upload and groups it into
// jobs, at most n of them; the rest of the partitions is let go again.
func (m *Manager) plan(n int) []job {
	now := m.deps.Now()
	held := map[partKey]*part{}
	var cands []candidate
	var queued int
	for _, p := range m.attached() {
		c, ok := m.candidate(p, now)
		if !ok {
			continue
		}
		queued += len(c.segs)
		cands = append(cands, c)
		held[p.key] = p
	}
	queueDepth.Set(float64(queued))
	l := limits{target: m.cfg.TargetBytes, wait: max(m.cfg.PackWait, 0), maxRuns: 1024}
	plans := plan(l, cands)
	jobs := make([]job, 0, len(plans))
	for _, pl := range plans[:min(n, len(plans))] {
		var j job
		for _, r := range pl {
			p := held[r.key]
			j = append(j, jobRun{part: p, view: p.view.Load(), seg: r.seg})
		}
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		for _, r := range j {
			delete(held, r.part.key)
		}
	}
	for _, p := range held {
		p.release()
	}
	return jobs
}

// candidate holds p if it has sealed segments to upload.
func (m *Manager) candidate(p *part, now time.Time) (candidate, bool) {
	v := p.view.Load()
	if v == nil || !p.policyNow().Enabled || !p.hold(now) {
		return candidate{}, false
	}
	v = p.view.Load()
	segs, err := pending(p, v)
	p.mu.Lock()
	if len(segs) == 0 {
		p.waiting = time.Time{}
	} else if p.waiting.IsZero() {
		p.waiting = now
	}
	waited := now.Sub(p.waiting)
	p.mu.Unlock()
	if err != nil {
		m.fail(p, err)
	}
	if err != nil || len(segs) == 0 {
		p.release()
		return candidate{}, false
	}
	return candidate{key: p.key, segs: segs, waited: waited}, true
}

// pending lists the sealed segments that are not tiered.
func pending(p *part, v *view) ([]record.Segment, error) {
	logStart := p.hot.LogStart()
	from := max(v.ptr.End, logStart)
	if v.rev == 0 {
		from = logStart
	}
	segs := p.hot.Sealed(from)
	for len(segs) > 0 && (segs[0].End <= from || segs[0].Bytes == 0) {
		segs = segs[1:]
	}
	if len(segs) > 0 && segs[0].Base > from {
		if now := p.hot.LogStart(); now > logStart {
			return nil, nil // the log start moved meanwhile, and segments went: look again
		}
		return nil, fmt.Errorf("%w: %v is tiered up to %d, its log starts at %d and its oldest segment at %d", errGap, p.tp, v.ptr.End, logStart, segs[0].Base)
	}
	for i := 1; i < len(segs); i++ {
		if segs[i].Base != segs[i-1].End || segs[i].Bytes == 0 {
			return segs[:i], nil
		}
	}
	return segs, nil
}

// badSegment says that one partition's local bytes cannot be uploaded.
type badSegment struct {
	part *part
	err  error
}

func (e *badSegment) Error() string { return e.err.Error() }
func (e *badSegment) Unwrap() error { return e.err }

// run makes the object and commits it for each partition, and lets the
// partitions go. A partition with bad local bytes is stopped and left out.
func (m *Manager) run(j job) {
	defer func() {
		for _, r := range j {
			r.part.release()
		}
		m.poke()
	}()
	for todo := j; len(todo) > 0; {
		err := m.upload(todo)
		var bad *badSegment
		if !errors.As(err, &bad) {
			return
		}
		var rest job
		for _, r := range todo {
			if r.part != bad.part {
				rest = append(rest, r)
			}
		}
		todo = rest
	}
}

// upload writes one object, reads its footer back and commits it. The error
// is reported already, but for badSegment.
func (m *Manager) upload(j job) (err error) {
	started := m.deps.Now()
	id := m.newID()
	m.garbage.protect(id, started.Add(m.cfg.QuarantineFor))
	src, places, closeFiles, err := m.prepare(j, id, started)
	defer closeFiles()
	if err == nil {
		err = m.put(id, src)
	}
	if err != nil {
		m.garbage.unprotect(id)
		var bad *badSegment
		if errors.As(err, &bad) {
			if errors.Is(err, record.ErrCorrupt) {
				m.fail(bad.part, bad.err)
			} else {
				m.outcome(bad.part, bad.err)
			}
			return err
		}
		uploadFailures.Inc()
		m.outcomes(j, err)
		return err
	}
	uploads.Inc()
	uploadBytes.Add(int(src.size()))
	uploadRuns.Add(len(src.runs))
	uploadSeconds.Update(m.deps.Now().Sub(started).Seconds())
	sure := true
	var committed []*part
	for i := 0; i < len(j); {
		k := i + 1
		for k < len(j) && j[k].part == j[i].part {
			k++
		}
		err := m.commitRuns(j[i], src.runs[i:k], places[i:k], id, started)
		sure = sure && !errors.Is(err, errUnknown)
		m.outcome(j[i].part, err)
		if err == nil {
			committed = append(committed, j[i].part)
		}
		i = k
	}
	if sure {
		m.garbage.unprotect(id)
	}
	// Only now: a store that is slow to take the copies must not make the
	// commits of a packed object too late.
	for _, p := range committed {
		if !m.copyIfDue(p) {
			break // the others try with their next commit
		}
	}
	return nil
}

func (m *Manager) outcomes(j job, err error) {
	for i, r := range j {
		if i == 0 || j[i-1].part != r.part {
			m.outcome(r.part, err)
		}
	}
}

// prepare opens and checks the segments and makes the footer.
func (m *Manager) prepare(j job, id ObjectID, now time.Time) (src *source, places []section, closeFiles func(), err error) {
	var open []*record.SealedFiles
	closeFiles = func() {
		for _, f := range open {
			if f.Close != nil {
				f.Close()
			}
		}
	}
	h := &blockHash{block: m.cfg.ChunkBytes}
	src = &source{block: m.cfg.ChunkBytes, bufNo: -1}
	for i, r := range j {
		f, err := r.part.hot.OpenSealed(r.seg.Base)
		if err != nil {
			return nil, nil, closeFiles, &badSegment{r.part, fmt.Errorf("opening segment %d of %v: %w", r.seg.Base, r.part.tp, err)}
		}
		open = append(open, f)
		from := max(r.view.ptr.End, r.seg.Base)
		if r.view.rev == 0 || i > 0 && j[i-1].part == r.part {
			from = r.seg.Base
		}
		s, err := scan(f, r.part.tp, r.part.key.id, from, h)
		if err != nil {
			return nil, nil, closeFiles, &badSegment{r.part, err}
		}
		src.runs = append(src.runs, s)
	}
	src.data, src.sums = h.n, h.finish()
	runs := make([]*Run, len(src.runs))
	for i, s := range src.runs {
		s.run.DataLen = src.data
		s.run.BlockSums = src.sums[s.run.firstBlock() : s.run.lastBlock()+1]
		runs[i] = s.run
	}
	src.footer, places, err = encodeFooter(m.deps.ClusterID, id, now.UnixMilli(), m.cfg.ChunkBytes, src.data, runs)
	return src, places, closeFiles, err
}

// put writes the object and verifies it: its size, and its footer byte for
// byte as it was meant.
func (m *Manager) put(id ObjectID, src *source) error {
	key := ObjectKey(m.deps.ClusterID, id)
	patience := m.cfg.StoreTimeout + time.Duration(src.size()>>20)*time.Second
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	// The key is new: if it is taken, an earlier try whose answer was lost did
	// it, and what follows shows whether it is whole.
	if _, err := m.deps.Store.Put(ctx, key, src, src.size()); err != nil && !errors.Is(err, objectstore.ErrExists) {
		if errors.Is(err, record.ErrCorrupt) {
			uploadCorrupt.Inc()
		}
		return fmt.Errorf("writing object %s: %w", key, err)
	}
	obj, err := m.deps.Store.Head(ctx, key)
	if err != nil {
		return fmt.Errorf("verifying object %s: %w", key, err)
	}
	if obj.Size != src.size() {
		return corruptf("object %s has %d bytes, %d were written", key, obj.Size, src.size())
	}
	rc, err := m.deps.Store.GetRange(ctx, key, src.data, int64(len(src.footer)))
	if err != nil {
		return fmt.Errorf("verifying object %s: %w", key, err)
	}
	defer rc.Close()
	got := make([]byte, len(src.footer))
	if _, err := io.ReadFull(rc, got); err != nil {
		return fmt.Errorf("verifying object %s: %w", key, err)
	}
	if !bytes.Equal(got, src.footer) {
		return corruptf("object %s: its footer is not what was written", key)
	}
	return nil
}

// commitRuns adds one partition's runs of an object to its pointer.
func (m *Manager) commitRuns(first jobRun, runs []*scanned, places []section, id ObjectID, started time.Time) error {
	p := first.part
	entries := make([]Entry, len(runs))
	for i, s := range runs {
		r := s.run
		entries[i] = Entry{
			Base: r.Base, End: r.End, MaxTimestamp: r.MaxTimestamp, MaxTSOffset: r.MaxTSOffset,
			Position: r.Position, Length: r.Length, IndexPos: places[i].pos, IndexLen: int32(places[i].len),
			Epoch: s.last, AbortedFrom: -1, Object: id,
		}
		for _, a := range r.Aborted {
			if entries[i].AbortedFrom < 0 || a.FirstOffset < entries[i].AbortedFrom {
				entries[i].AbortedFrom = a.FirstOffset
			}
		}
	}
	if v := p.view.Load(); v.rev != first.view.rev || p.ctx.Err() != nil {
		return fmt.Errorf("%w: %v was changed while its segments were uploaded", errLost, p.tp)
	}
	if !p.view.Load().loaded {
		// The store is there again, the next tick was not yet. If it cannot be
		// read the tail may still have room.
		if err := m.loadManifest(m.ctx, p); err != nil {
			m.deps.Log.Debug("manifest still not loaded", "partition", p.tp.String(), "err", err)
		}
	}
	v := p.view.Load()
	next, all := v.withEntries(entries, p.hot.LogStart())
	if err := m.commit(p, next, all, started); err != nil {
		return fmt.Errorf("committing %v [%d, %d): %w", p.tp, entries[0].Base, next.End, err)
	}
	p.mu.Lock()
	p.lastUpload = m.deps.Now()
	p.waiting = time.Time{}
	for i := range entries {
		p.copied.bytes += entries[i].Length
	}
	p.mu.Unlock()
	p.hot.SetTieredEnd(next.End)
	return nil
}
