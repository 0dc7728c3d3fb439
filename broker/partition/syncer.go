package partition

import (
	"sync"
	"time"

	"github.com/firnlog/firn/broker/commitlog/journal"
	"github.com/firnlog/firn/broker/replica"
)

// maxSyncs is how many background syncs of all partitions are under way at
// once: each holds a thread while the disk works.
const maxSyncs = 64

var syncing = make(chan struct{}, maxSyncs)

// syncer forces the log to disk in the background, for flush.ms and for
// flush.messages above 1. It has a goroutine only while there is something to
// do, and however often it is asked there is at most one sync under way and
// one to follow.
type syncer struct {
	mu      sync.Mutex  // never held across I/O
	due     *time.Timer // of the sync that is asked for, nil: none
	running bool
	again   bool
	stopped bool
	work    sync.WaitGroup
}

// within sees to it that sync is called at the latest after d.
func (s *syncer) within(d time.Duration, sync func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped || s.due != nil && d > 0:
	case d > 0:
		s.due = time.AfterFunc(d, func() { s.start(sync) })
	default:
		s.startLocked(sync)
	}
}

func (s *syncer) start(sync func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due = nil
	s.startLocked(sync)
}

func (s *syncer) startLocked(sync func()) {
	if s.due != nil { // what it was to sync is synced now
		s.due.Stop()
		s.due = nil
	}
	if s.stopped || s.running {
		s.again = true
		return
	}
	s.running = true
	s.work.Go(func() {
		for more := true; more; {
			syncing <- struct{}{}
			sync()
			<-syncing
			s.mu.Lock()
			more = s.again && !s.stopped
			s.again, s.running = false, more
			s.mu.Unlock()
		}
	})
}

// stop waits for a sync under way; none begins any more.
func (s *syncer) stop() {
	s.mu.Lock()
	s.stopped = true
	if s.due != nil {
		s.due.Stop()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// syncData is what the syncer does. A failure fails the log, which tells the
// broker; that it was closed meanwhile is none.
func (p *Partition) syncData() {
	backgroundSyncs.Inc()
	p.mu.Lock()
	mark, cuts := journal.Mark{End: p.log.End(), LastStable: p.lastStable()}, p.log.Truncations()
	p.mu.Unlock()
	if p.log.SyncData() != nil {
		return
	}
	p.mu.Lock()
	var out replica.Outcome
	same := p.log.Truncations() == cuts // else the mark may be of records that are no more
	if same {
		out = p.durableTo(mark)
	}
	p.mu.Unlock()
	if same {
		p.told(out)
		p.synced.advance(mark.End)
	}
}
