package commitlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/firnlog/firn/record"
)

// flusher writes the small files of sealed segments, in order, from one
// goroutine that ends when there is nothing left to do. Its queue holds no
// more than the segments themselves do.
type flusher struct {
	log     *Log
	mu      sync.Mutex // of the fields below; never held across I/O
	queue   []*segment
	running bool
	stopped bool
	full    bool // the disk was, when sealing was last tried
	wg      sync.WaitGroup

	work sync.Mutex // held by whoever flushes
}

// add queues a segment and sees to it that it gets flushed.
func (q *flusher) add(s *segment) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !slices.Contains(q.queue, s) {
		q.queue = append(q.queue, s)
	}
	q.startLocked()
}

// kick tries again what a full disk left undone.
func (q *flusher) kick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) > 0 {
		q.startLocked()
	}
}

func (q *flusher) startLocked() {
	if q.running || q.stopped {
		return
	}
	q.running = true
	q.wg.Add(1)
	go func() {
		defer q.wg.Done()
		q.report(q.drain(true))
	}()
}

// report logs how sealing went. That the disk is full is said once, however
// often it is tried again, and so is that it no longer is.
func (q *flusher) report(err error) {
	full := errors.Is(err, ErrFull)
	q.mu.Lock()
	changed := full != q.full
	q.full = full
	q.mu.Unlock()
	switch log := q.log.deps.Log.With("dir", q.log.dir); {
	case full && changed:
		log.Warn("the disk is full: sealing segments waits for room", "err", err)
	case err != nil && !full:
		log.Warn("sealing segments", "err", err)
	case err == nil && changed:
		log.Info("the disk has room again, segments are sealed")
	}
}

// drain flushes until the queue is empty or something fails. After ErrFull
// the rest stays queued.
func (q *flusher) drain(background bool) error {
	q.work.Lock()
	defer q.work.Unlock()
	for {
		q.mu.Lock()
		if len(q.queue) == 0 {
			if background {
				q.running = false
			}
			q.mu.Unlock()
			return nil
		}
		s := q.queue[0]
		q.mu.Unlock()
		err := q.log.seal(s)
		q.mu.Lock()
		if err == nil {
			q.queue = q.queue[1:]
		} else if background {
			q.running = false
		}
		q.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// stop waits for the goroutine and lets no other begin.
func (q *flusher) stop() {
	q.mu.Lock()
	q.stopped = true
	q.mu.Unlock()
	q.wg.Wait()
}

// seal writes a sealed segment's small files, syncs all of it, and moves the
// recovery point past it.
func (l *Log) seal(s *segment) error {
	if e := l.failed.Load(); e != nil {
		return fmt.Errorf("%w: %w", ErrFailed, *e)
	}
	x := s.live.Load()
	data, err := s.acquire()
	if errors.Is(err, errGone) || x == nil {
		return nil
	}
	if err != nil {
		return l.judge(err)
	}
	defer data.Release()
	if err := l.syncFile(data.OS()); err != nil {
		return err
	}
	if err := s.writeIndexes(x); err != nil {
		return l.judge(err)
	}
	if x.snapshot != nil {
		next := segment{log: l, base: record.Offset(s.end.Load())}
		if err := l.disk.Replace(next.path(snapshotSuffix), x.snapshot); err != nil {
			return l.judge(err)
		}
	}
	if err := l.checkpoint(record.Offset(s.end.Load()), l.cuts.Load()); err != nil {
		return l.judge(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone { // deleted meanwhile: what was written for it goes too
		for _, suffix := range []string{indexSuffix, timeSuffix, txnSuffix} {
			_ = l.disk.Remove(s.path(suffix))
		}
		return nil
	}
	s.info.Store(&sealedInfo{Summary: x.summary(), aborted: *x.aborted.Load()})
	s.live.CompareAndSwap(x, nil)
	return nil
}

// writeIndexes writes the segment's index files from memory.
func (s *segment) writeIndexes(x *liveIndex) error {
	d, size := s.log.disk, s.size.Load()
	if err := d.Replace(s.path(indexSuffix), encodeOffsets(s.base, size, *x.offsets.Load())); err != nil {
		return err
	}
	if aborted := *x.aborted.Load(); len(aborted) > 0 {
		if err := d.Replace(s.path(txnSuffix), encodeTxns(s.base, aborted)); err != nil {
			return err
		}
	}
	sum := x.summary()
	sum.Bytes = size
	return d.Replace(s.path(timeSuffix), encodeTimes(s.base, sum, *x.times.Load()))
}

// checkpoint says durably that everything before point was fsynced; the
// segments' bytes and small files must have been. cuts is Log.cuts before point
// was looked up: nothing is said if the log was cut back since.
func (l *Log) checkpoint(point record.Offset, cuts int64) error {
	if err := l.saveEpochs(); err != nil {
		return err
	}
	if err := l.disk.SyncDir(l.dir); err != nil {
		return err
	}
	return l.updateMeta(func(m *Meta) {
		if l.settled(cuts) {
			m.RecoveryPoint = max(m.RecoveryPoint, point)
		}
	})
}

// settled says whether the log has not been cut back since cuts was what it
// is, nor was it being cut then.
func (l *Log) settled(cuts int64) bool { return cuts%2 == 0 && l.cuts.Load() == cuts }

func (l *Log) saveEpochs() error {
	l.metaMu.Lock()
	defer l.metaMu.Unlock()
	epochs := *l.epochs.Load()
	if slices.Equal(epochs, l.savedEpochs) {
		return nil
	}
	if err := l.disk.Replace(filepath.Join(l.dir, epochsName), encodeEpochs(epochs)); err != nil {
		return err
	}
	l.savedEpochs = epochs
	return nil
}

// syncFile fsyncs; a failure is final, whatever it says, because the page
// cache may have dropped what it could not write.
func (l *Log) syncFile(f *os.File) error {
	syncs.Inc()
	if err := l.disk.Sync(f); err != nil {
		return l.fail(fmt.Errorf("fsync of %s: %w", f.Name(), err))
	}
	return nil
}

// Sync returns when everything appended before the call is on disk for good.
func (l *Log) Sync() error {
	if err := l.usable(); err != nil {
		return err
	}
	cuts, end := l.cuts.Load(), l.End()
	if err := l.SyncData(); err != nil {
		return err
	}
	if err := l.flush.drain(false); err != nil {
		return err
	}
	if err := l.checkpoint(end, cuts); err != nil {
		return l.judge(err)
	}
	return nil
}

// SyncData is Sync without moving the recovery point: recovery after a crash
// takes longer, this call is cheaper, writes no small file and so needs no
// room on a full disk, and does not wait while segments are sealed.
func (l *Log) SyncData() error {
	if err := l.usable(); err != nil {
		return err
	}
	return l.syncData()
}

func (l *Log) syncData() error {
	all := l.segs.Load()
	segs := *all
	for i := len(segs) - 1; i >= 0 && segs[i].live.Load() != nil; i-- { // they are sealed in order
		f, err := segs[i].acquire()
		if errors.Is(err, errGone) {
			if l.segs.Load() != all {
				return l.syncData() // what took its place may not be synced
			}
			if l.released.Load() {
				return ErrClosed // synced or not, as CloseErr says
			}
			continue
		}
		if err != nil {
			return l.judge(err)
		}
		err = l.syncFile(f.OS())
		f.Release()
		if err != nil {
			return err
		}
	}
	if newest := segs[len(segs)-1]; l.named.Load() != newest {
		if err := l.syncNames(); err != nil {
			if l.closed.Load() {
				return ErrClosed // and the folder removed: that is no failure of the disk
			}
			return l.judge(err)
		}
		l.named.Store(newest)
	}
	return nil
}

// syncNames makes the names of the files durable, and the first time those of
// the folder and of its topic's.
func (l *Log) syncNames() error {
	if err := l.disk.SyncDir(l.dir); err != nil || l.named.Load() != nil {
		return err
	}
	topic := filepath.Dir(l.dir)
	if err := l.disk.SyncDir(topic); err != nil {
		return err
	}
	return l.disk.SyncDir(filepath.Dir(topic))
}

// closeClean writes what an open needs to do without a scan, the clean mark
// last.
func (l *Log) closeClean() error {
	defer l.flush.stop()
	l.metaMu.Lock()
	clean := l.meta.Clean && !l.changed.Load()
	l.metaMu.Unlock()
	if clean {
		return l.saveEpochs()
	}
	if err := l.syncData(); err != nil {
		return err
	}
	if err := l.flush.drain(false); err != nil {
		return err
	}
	seg := l.active()
	l.giveBack(seg)
	if err := seg.writeIndexes(seg.live.Load()); err != nil {
		return l.judge(err)
	}
	end := segment{log: l, base: l.End()}
	if err := l.disk.Replace(end.path(snapshotSuffix), l.producers.encode(end.base)); err != nil {
		return l.judge(err)
	}
	if err := l.saveEpochs(); err != nil {
		return l.judge(err)
	}
	if err := l.disk.SyncDir(l.dir); err != nil {
		return l.judge(err)
	}
	l.changed.Store(false)
	err := l.updateMeta(func(m *Meta) {
		m.RecoveryPoint, m.Clean = end.base, true
		m.End, m.ActiveBase, m.ActiveSize = end.base, seg.base, seg.size.Load()
	})
	if err != nil {
		return l.judge(err)
	}
	return nil
}
