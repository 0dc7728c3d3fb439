package fetcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

const (
	firstPause = 20 * time.Millisecond // after a first error; twice as long after each further one
	// When something else is to be asked while an answer is waited for, it is
	// asked behind that, after gather, in which more may come, and interruptEvery
	// after the last time. The leader then ends the wait. Before there is a
	// session it cannot: a new connection has to ask for everything, which costs
	// more and is done less often.
	gather         = 5 * time.Millisecond
	interruptEvery = 20 * time.Millisecond
	reconnectEvery = 100 * time.Millisecond
)

var errNotDurable = errors.New("fetcher: what was fetched did not become durable")

// follower is a replica on its link. It belongs to the link's goroutine, but
// for what it was made with.
type follower struct {
	Replica

	until  time.Time // not asked before
	pause  time.Duration
	failed error // of the last answer; told once
}

// link is one connection to one leader, and the replicas that are fetched
// through it. Its goroutine asks, takes in what comes, waits until that is
// durable, and asks on.
type link struct {
	f   *Fetcher
	key linkKey
	ctx context.Context
	end context.CancelFunc

	mu        sync.Mutex
	followers map[key]*follower
	dirty     map[key]struct{} // what changed since the last request was made
	changed   chan struct{}    // dirty is not empty, or the link ends
	waiting   *conn            // an answer is waited for, of which nothing has come
	every     time.Duration    // least time between interrupts of waiting
	broken    time.Time        // when waiting was last interrupted
	breaking  bool             // it is about to be

	// Of the goroutine.
	session session
	paused  map[key]*follower
	conn    *conn
	retry   time.Duration
	failed  bool // the last try to reach the leader
}

func newLink(f *Fetcher, k linkKey) *link {
	l := &link{
		f: f, key: k,
		followers: map[key]*follower{},
		dirty:     map[key]struct{}{},
		changed:   make(chan struct{}, 1),
		paused:    map[key]*follower{},
		session:   session{told: map[key]want{}},
	}
	l.ctx, l.end = context.WithCancel(f.ctx)
	return l
}

// set puts a replica on the link, or takes it away, and says how many there are.
func (l *link) set(k key, r *follower) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r == nil {
		delete(l.followers, k)
	} else {
		l.followers[k] = r
	}
	l.dirty[k] = struct{}{}
	l.wakeLocked()
	return len(l.followers)
}

// wakeLocked has the goroutine look at what is dirty, and not only when the
// leader has answered what it was asked before.
func (l *link) wakeLocked() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
	l.breakLocked()
}

// breakLocked interrupts the wait for an answer, soon.
func (l *link) breakLocked() {
	if l.waiting == nil || l.breaking {
		return
	}
	l.breaking = true
	time.AfterFunc(max(gather, l.every-time.Since(l.broken)), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.breaking = false
		if len(l.dirty) > 0 {
			l.interruptLocked()
		}
	})
}

func (l *link) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.interruptLocked()
}

// interruptLocked ends the wait for an answer, if there is one.
func (l *link) interruptLocked() {
	if l.waiting != nil {
		l.broken = time.Now()
		l.waiting.interrupt()
		l.waiting = nil
	}
}

// run is the link's goroutine.
func (l *link) run() {
	defer l.disconnect()
	defer context.AfterFunc(l.ctx, l.interrupt)()
	for l.ctx.Err() == nil {
		topics, forgotten, n, next := l.ask()
		if n == 0 {
			l.session.reset() // of what was forgotten the leader is not told
			if l.conn != nil && l.conn.owed > 0 {
				l.disconnect() // nobody asks it to end its wait
			}
			l.pause(next)
			continue
		}
		resp, err := l.fetch(topics, forgotten, next)
		switch {
		case err == nil:
			l.retry = 0
			l.take(resp)
		case l.ctx.Err() != nil:
		case err == errInterrupted && l.session.lasts():
			// What waits is answered when the next request comes.
			l.session.answered(l.session.id)
			l.conn.owed++
			l.conn.resume()
		default:
			l.lost(err)
		}
	}
}

// ask makes the next request's partitions. n is how many are fetched in all,
// next is when one of those that pause is due, zero when none does.
func (l *link) ask() (topics []kmsg.FetchRequestTopic, forgotten []kmsg.FetchRequestForgottenTopic, n int, next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for k, fo := range l.paused {
		switch {
		case l.followers[k] != fo:
			delete(l.paused, k)
		case !fo.until.After(now):
			delete(l.paused, k)
			l.dirty[k] = struct{}{}
		case next.IsZero() || fo.until.Before(next):
			next = fo.until
		}
	}
	if l.session.epoch == 0 {
		for k := range l.followers {
			l.dirty[k] = struct{}{}
		}
	}
	r := l.session.request()
	for k := range l.dirty {
		fo := l.followers[k]
		if fo == nil || l.paused[k] != nil {
			r.forget(k)
			continue
		}
		pause := l.f.deps.Quota(k.id, k.p).Wait(now)
		ask, start, ok := fo.NextFetch()
		if !ok {
			pause = max(pause, firstPause)
		}
		if pause > 0 {
			fo.until = now.Add(pause)
			if next.IsZero() || fo.until.Before(next) {
				next = fo.until
			}
			l.paused[k] = fo
			r.forget(k)
			continue
		}
		r.want(k, want{ask, start}, l.f.cfg.PartitionMax)
	}
	clear(l.dirty)
	select {
	case <-l.changed:
	default:
	}
	return r.topics, r.forgotten, len(l.session.told), next
}

// pause waits until something is to be asked.
func (l *link) pause(until time.Time) {
	var due <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		due = t.C
	}
	select {
	case <-l.changed:
	case <-due:
	case <-l.ctx.Done():
	}
}

// fetch sends a request and reads the answer. At until, if that is not zero,
// something else is to be asked.
func (l *link) fetch(topics []kmsg.FetchRequestTopic, forgotten []kmsg.FetchRequestForgottenTopic, until time.Time) (*kmsg.FetchResponse, error) {
	cfg := &l.f.cfg
	if l.conn == nil {
		addr := l.f.deps.Addr(l.key.leader)
		if addr == "" {
			return nil, fmt.Errorf("broker %d is not registered", l.key.leader)
		}
		ctx, cancel := context.WithTimeout(l.ctx, cfg.SocketTimeout)
		nc, err := l.f.deps.Dial(ctx, addr)
		cancel()
		if err != nil {
			return nil, err
		}
		l.conn = newConn(nc, cfg.BrokerID)
	}
	req := kmsg.NewPtrFetchRequest()
	req.Version = fetchVersion
	req.ReplicaState.ID, req.ReplicaState.Epoch = int32(cfg.BrokerID), l.f.deps.Epoch()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(cfg.MaxWait.Milliseconds()), 1, cfg.MaxBytes
	req.SessionID, req.SessionEpoch = l.session.id, l.session.epoch
	req.Topics, req.ForgottenTopics = topics, forgotten
	if err := l.conn.send(req, cfg.SocketTimeout); err != nil {
		return nil, err
	}
	if err := l.takeOwed(topics); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.waiting, l.every = l.conn, interruptEvery; !l.session.lasts() {
		l.every = reconnectEvery
	}
	if len(l.dirty) > 0 { // since the request was made
		l.breakLocked()
	}
	over := l.ctx.Err() // from here on the end interrupts
	l.mu.Unlock()
	if over != nil {
		return nil, over
	}
	if !until.IsZero() && l.session.lasts() {
		due := time.AfterFunc(max(time.Until(until), interruptEvery), l.interrupt)
		defer due.Stop()
	}
	err := l.conn.await(cfg.MaxWait + cfg.SocketTimeout)
	l.mu.Lock()
	l.waiting = nil
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l.conn.receive(cfg.SocketTimeout)
}

// takeOwed takes in the answers to requests before the last, which is for topics.
// They come at once; partitions about which was asked again are left out.
func (l *link) takeOwed(topics []kmsg.FetchRequestTopic) error {
	c := l.conn
	if c.owed == 0 {
		return nil
	}
	defer context.AfterFunc(l.ctx, c.interrupt)()
	for c.owed > 0 {
		if err := c.await(l.f.cfg.SocketTimeout); err != nil {
			return err
		}
		resp, err := c.receive(l.f.cfg.SocketTimeout)
		if err != nil {
			return err
		}
		c.owed--
		if resp.ErrorCode == 0 {
			again := map[key]struct{}{}
			for _, t := range topics {
				for _, p := range t.Partitions {
					again[key{t.TopicID, record.PartitionID(p.Partition)}] = struct{}{}
				}
			}
			l.takeIn(resp, again)
		}
	}
	return nil
}

// lost drops the connection after an error, and waits before the next one.
func (l *link) lost(err error) {
	l.disconnect()
	l.session.reset()
	if err == errInterrupted {
		return
	}
	if !l.failed {
		l.failed = true
		l.f.deps.Log.Warn("a leader cannot be fetched from; it is tried again", "leader", int32(l.key.leader), "error", err)
	}
	fetchErrors.Inc()
	l.retry = l.f.longer(l.retry)
	select {
	case <-time.After(l.retry):
	case <-l.ctx.Done():
	}
}

func (l *link) disconnect() {
	if l.conn != nil {
		l.conn.close()
		l.conn = nil
	}
}

// take hands over an answer, and returns when what came is durable.
func (l *link) take(resp *kmsg.FetchResponse) {
	if l.failed {
		l.failed = false
		l.f.deps.Log.Info("a leader is fetched from again", "leader", int32(l.key.leader))
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		l.session.reset()
		if resp.ErrorCode != kerr.FetchSessionIDNotFound.Code && resp.ErrorCode != kerr.InvalidFetchSessionEpoch.Code {
			l.lost(err)
		}
		return
	}
	l.session.answered(resp.SessionID)
	l.takeIn(resp, nil)
}

// takeIn has replicas do what the answer says of them, but for those about which
// was asked again.
func (l *link) takeIn(resp *kmsg.FetchResponse, again map[key]struct{}) {
	fetches.Inc()
	t := taking{link: l}
	t.cuts.SetLimit(maxCuts)
	for i := range resp.Topics {
		topic := &resp.Topics[i]
		for j := range topic.Partitions {
			p := &topic.Partitions[j]
			k := key{topic.TopicID, record.PartitionID(p.Partition)}
			asked, ok := l.session.told[k]
			l.mu.Lock()
			fo := l.followers[k]
			l.mu.Unlock()
			if _, twice := again[k]; !ok || fo == nil || twice {
				continue // it has another place by now
			}
			a := answerOf(asked.Ask, p)
			if a.Result == replica.Diverging || a.Result == replica.OutOfRange {
				t.cuts.Go(func() error {
					t.noted(fo, t.replicate(fo, a, p.RecordBatches))
					return nil
				})
				continue
			}
			l.outcome(k, fo, t.replicate(fo, a, p.RecordBatches))
			fetchedBytes.Add(len(p.RecordBatches))
			l.f.deps.Quota(k.id, k.p).Copied(time.Now(), int64(len(p.RecordBatches)))
		}
	}
	t.wait()
}

// maxCuts is how many logs of a link are cut at one time. To be cut means to
// wait for the disk, and many waits are answered together.
const maxCuts = 64

// taking is an answer that is being taken in.
type taking struct {
	*link
	cuts    errgroup.Group
	durable sync.WaitGroup

	mu    sync.Mutex // guards notes
	notes []note     // outcomes that are told at the end
}

type note struct {
	fo  *follower
	err error
}

// replicate has a replica do what its leader answered.
func (t *taking) replicate(fo *follower, a replica.Answer, batches []byte) error {
	t.durable.Add(1)
	err := fo.Replicate(a, batches, func(err error) {
		if err != nil {
			t.noted(fo, errNotDurable)
		}
		t.durable.Done()
	})
	if err != nil {
		t.durable.Done()
	}
	return err
}

func (t *taking) noted(fo *follower, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes, note{fo, err})
}

// wait returns when all of the logs are cut, and what came is durable.
func (t *taking) wait() {
	_ = t.cuts.Wait() // the errors are in notes
	t.durable.Wait()
	for _, n := range t.notes {
		t.outcome(keyOf(n.fo), n.fo, n.err)
	}
}

// outcome notes how an answer was taken in.
func (l *link) outcome(k key, fo *follower, err error) {
	if err == nil {
		fo.pause, fo.failed = 0, nil
	} else {
		partitionErrors.Inc()
		fo.pause = l.f.longer(fo.pause)
		fo.until = time.Now().Add(fo.pause)
		l.paused[k] = fo
		if fo.failed == nil && fo.pause == l.f.cfg.Backoff {
			fo.failed = err
			l.f.deps.Log.Warn("a replica does not get on with its leader; it is tried again", "partition", fo.TP().String(), "leader", int32(l.key.leader), "error", err)
		}
	}
	l.mu.Lock()
	if l.followers[k] == fo {
		l.dirty[k] = struct{}{}
	}
	l.mu.Unlock()
}

// longer is the pause after another error.
func (f *Fetcher) longer(pause time.Duration) time.Duration {
	return min(max(2*pause, firstPause), f.cfg.Backoff)
}

// answerOf puts a partition of an answer as package replica has it.
func answerOf(asked replica.Ask, p *kmsg.FetchResponseTopicPartition) replica.Answer {
	a := replica.Answer{Ask: asked, HighWatermark: record.Offset(p.HighWatermark), LogStart: record.Offset(p.LogStartOffset)}
	switch p.ErrorCode {
	case 0:
		if d := p.DivergingEpoch; d.Epoch >= 0 || d.EndOffset >= 0 {
			a.Result, a.DivergingEpoch, a.DivergingEnd = replica.Diverging, record.Epoch(d.Epoch), record.Offset(d.EndOffset)
		}
	case kerr.OffsetOutOfRange.Code, kerr.OffsetMovedToTieredStorage.Code:
		a.Result = replica.OutOfRange
	case kerr.FencedLeaderEpoch.Code:
		a.Result = replica.Fenced
	case kerr.UnknownLeaderEpoch.Code, kerr.NotLeaderForPartition.Code:
		a.Result = replica.NotYet
	default:
		a.Result = replica.Failed
	}
	return a
}
