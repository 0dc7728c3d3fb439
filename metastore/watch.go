package metastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	loadPage     = 4096                   // keys per read while loading
	drainMax     = 256                    // watch responses taken together before an image is published
	progressWait = 5 * time.Millisecond   // how long WaitFor waits before it asks etcd for progress
	progressPoll = 100 * time.Millisecond // and how often it asks again
	reloadPause  = 200 * time.Millisecond
	watchStalls  = 3 * time.Second        // without a sign of life, a watch over the network is made anew
	imageShare   = 5                      // one in so many of the time goes into making images
	imageBurst   = 100 * time.Millisecond // as far as it may be ahead of that
)

// load reads everything below imagePrefix at one revision. A value that
// cannot be read fails it: to go on without would be to forget a topic, whose
// records would then be deleted.
func load(ctx context.Context, srv *server) (*state, error) {
	for {
		s, err := loadOnce(ctx, srv)
		if !errors.Is(err, errCompacted) {
			return s, err
		}
	}
}

func loadOnce(ctx context.Context, srv *server) (*state, error) {
	s := newState()
	key, end := imagePrefix, clientv3.GetPrefixRangeEnd(imagePrefix)
	for {
		var resp *clientv3.GetResponse
		_, err := try(ctx, srv, func(ctx context.Context) (err error) {
			resp, err = srv.cli.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(loadPage), clientv3.WithRev(s.revision))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("metastore: load: %w", mapError(err))
		}
		if s.revision == 0 {
			s.revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			if err := s.put(string(kv.Key), kv.Value, kv.CreateRevision, kv.ModRevision); err != nil {
				return nil, fmt.Errorf("metastore: load: %w", err)
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return s, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// watch keeps the image up to date until ctx ends. When etcd has compacted
// what it still needed, or the watch broke, it loads everything again.
func (s *Store) watch(ctx context.Context, st *state) {
	for {
		err := s.watchFrom(ctx, st)
		if ctx.Err() != nil {
			return
		}
		select {
		case <-s.srv.down: // nothing to read any more
			return
		default:
		}
		if errors.Is(err, errWatchStalls) {
			s.log.Warn("a member of etcd hangs, watching metadata at the next one", "revision", st.revision)
			continue // from where it was
		}
		metricReloads.Inc()
		s.log.Warn("metadata watch broke off, reading everything again", "revision", st.revision, "err", err)
		for said := (time.Time{}); ; {
			if fresh, err := s.reload(ctx, st); err == nil {
				st = fresh
				break
			} else if ctx.Err() == nil && time.Since(said) >= sayAgain {
				said = time.Now()
				s.log.Error("metadata cannot be read again, trying on", "err", err)
			}
			select {
			case <-time.After(reloadPause):
			case <-s.srv.down:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

func (s *Store) reload(ctx context.Context, old *state) (*state, error) {
	st, err := load(ctx, s.srv)
	if err != nil {
		return nil, err
	}
	next, incomplete := st.image(nil)
	if len(incomplete) > 0 {
		return nil, fmt.Errorf("%w: topic %s lacks partitions", ErrCorrupt, incomplete[0])
	}
	s.publish(next)
	return st, nil
}

var (
	errWatchClosed = errors.New("metastore: watch closed")
	errWatchStalls = errors.New("metastore: watch gives no sign of life")
)

// watched is the context of the watch, of all that asks about it, and of the lease. A client
// of the members leaves one that has lost its leader for another one.
func (s *Store) watched(ctx context.Context) context.Context {
	if s.srv.etcd != nil {
		return ctx
	}
	return clientv3.WithRequireLeader(ctx)
}

// watchFrom takes in changes after st.revision until the watch fails.
func (s *Store) watchFrom(ctx context.Context, st *state) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.srv.cli.Watch(s.watched(ctx), imagePrefix, clientv3.WithPrefix(), clientv3.WithRev(st.revision+1))
	alive, end := s.watchdog()
	defer end()
	heard := time.Now()
	var pace imagePace
	for {
		var resp clientv3.WatchResponse
		select {
		case r, ok := <-events:
			if !ok {
				return errWatchClosed
			}
			resp, heard = r, time.Now()
		case <-alive:
			if time.Since(heard) > watchStalls {
				metricWatchStalls.Inc()
				return errWatchStalls
			}
			go func() { _ = s.requestProgress(ctx) }() // its answer is an event; it ends within progressPoll
			continue
		}
		err := s.take(st, resp)
		if err == nil {
			err = s.drain(st, events)
		}
		began := time.Now()
		s.publishState(st)
		if err != nil {
			return err
		}
		if wait := pace.wait(began, time.Now()); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}
}

// imagePace is until when the time that went into images is paid for. Where
// images are large, changes that come quickly share one: in the long run they
// take one part in imageShare of a core. A few in a row, as an election brings
// them, wait for nothing.
type imagePace struct{ paid time.Time }

// wait says for how long no image is to be made after one that took from began
// to now; not positive: make the next at once.
func (p *imagePace) wait(began, now time.Time) time.Duration {
	if p.paid.Before(began) {
		p.paid = began
	}
	p.paid = p.paid.Add(imageShare * now.Sub(began))
	return p.paid.Sub(now) - imageBurst
}

// watchdog ticks where a watch has to be asked whether it lives: of a member
// that hangs, over the network, gRPC would find out after twelve seconds.
func (s *Store) watchdog() (tick <-chan time.Time, end func()) {
	if s.srv.etcd != nil {
		return nil, func() {}
	}
	t := time.NewTicker(watchStalls / 4)
	return t.C, t.Stop
}

// drain takes in what has piled up meanwhile, so that it becomes one image.
func (s *Store) drain(st *state, events clientv3.WatchChan) error {
	for range drainMax {
		select {
		case resp, ok := <-events:
			if !ok {
				return errWatchClosed
			}
			if err := s.take(st, resp); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// take applies one response. etcd never splits a revision over two.
func (s *Store) take(st *state, resp clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		return mapError(err)
	}
	if resp.IsProgressNotify() {
		// Everything up to this revision was sent before.
		st.revision = max(st.revision, resp.Header.Revision)
		return nil
	}
	for _, ev := range resp.Events {
		var err error
		key := string(ev.Kv.Key)
		if ev.Type == mvccpb.Event_DELETE {
			err = st.del(key)
		} else {
			err = st.put(key, ev.Kv.Value, ev.Kv.CreateRevision, ev.Kv.ModRevision)
		}
		if err != nil {
			metricDecodeErrors.Inc()
			s.log.Error("metadata that this version cannot read is ignored", "err", err)
		}
		// The header's revision may be ahead of the events; theirs is not.
		st.revision = max(st.revision, ev.Kv.ModRevision)
	}
	return nil
}

func (s *Store) publishState(st *state) {
	prev := s.Image()
	if st.revision == prev.Revision {
		return
	}
	next, incomplete := st.image(prev)
	for _, id := range incomplete {
		metricDecodeErrors.Inc()
		s.log.Error("topic lacks partitions, its change is ignored", "topic_id", id.String(), "revision", st.revision)
	}
	s.publish(next)
}

// publish makes next what Image gives, wakes WaitFor and the callbacks.
func (s *Store) publish(next *Image) {
	s.mu.Lock()
	s.image.Store(next)
	close(s.published)
	s.published = make(chan struct{})
	s.mu.Unlock()
	metricImageRevision.Set(float64(next.Revision))
	metricTopics.Set(float64(len(next.Topics)))
	metricPartitions.Set(float64(next.Partitions))
	signal(s.notify)
}

// signal wakes the one reader of c, if it is not to wake already.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// WaitFor waits until Image().Revision >= revision, where revision is one that
// a write of this store gave. It fails when ctx ends or the store closes.
func (s *Store) WaitFor(ctx context.Context, revision int64) error {
	var ask <-chan time.Time
	for {
		s.mu.Lock()
		published := s.published
		s.mu.Unlock()
		if s.Image().Revision >= revision {
			return nil
		}
		if ask == nil {
			ask = time.After(progressWait)
		}
		select {
		case <-published:
		case <-ask:
			// The revision may be that of a write that is not watched: then
			// only a progress notification moves the image on.
			ask = time.After(progressPoll)
			if err := s.requestProgress(ctx); err != nil {
				return fmt.Errorf("metastore: wait for revision %d: %w", revision, err)
			}
		case <-ctx.Done():
			return fmt.Errorf("metastore: wait for revision %d, at %d: %w", revision, s.Image().Revision, context.Cause(ctx))
		case <-s.closed:
			return fmt.Errorf("metastore: wait for revision %d: %w", revision, ErrClosed)
		}
	}
}

func (s *Store) requestProgress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, progressPoll)
	defer cancel()
	// A broken watch is made anew by the watch loop, and asked again later.
	if err := s.srv.cli.RequestProgress(s.watched(ctx)); err != nil && ctx.Err() == nil {
		select {
		case <-s.closed:
			return ErrClosed
		default:
		}
	}
	return nil
}

// OnChange calls fn with the newest image soon after this call, and again
// whenever a newer one was published. Calls come one at a time, in order, from
// one goroutine; images that follow each other quickly may be given as one. A
// call under way when cancel is called may still finish.
func (s *Store) OnChange(fn func(*Image)) (cancel func()) {
	sub := &subscriber{fn: fn}
	s.mu.Lock()
	s.subscribers = append(s.subscribers, sub)
	s.mu.Unlock()
	signal(s.notify)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, other := range s.subscribers {
			if other == sub {
				// Copied: callbacks may be walking the old slice.
				s.subscribers = append(s.subscribers[:i:i], s.subscribers[i+1:]...)
				return
			}
		}
	}
}

// subscriber is one OnChange. seen belongs to the callback goroutine.
type subscriber struct {
	fn   func(*Image)
	seen *Image
}

// callbacks runs OnChange's functions until the store closes.
func (s *Store) callbacks() {
	for {
		select {
		case <-s.notify:
		case <-s.closed:
			return
		}
		s.mu.Lock()
		subs := s.subscribers
		img := s.image.Load()
		s.mu.Unlock()
		for _, sub := range subs {
			if sub.seen != img {
				sub.seen = img
				sub.fn(img)
			}
		}
	}
}
