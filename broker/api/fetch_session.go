package api

import (
	"container/list"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/throttle"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Fetch sessions (KIP-227): the broker remembers what a client fetches, the
// client sends only changes, and the broker leaves out partitions with nothing
// new. Epochs number the requests of a session: 0 asks for a new session, -1
// for none, and both end the session that is named.

const (
	newSessionEpoch = 0
	noSessionEpoch  = -1
)

func nextSessionEpoch(e int32) int32 {
	switch {
	case e < 0:
		return noSessionEpoch
	case e == math.MaxInt32:
		return 1
	}
	return e + 1
}

// fetchKey names a partition as the client does: by id from version 13 on,
// else by name. The other field is zero.
type fetchKey struct {
	topic string
	id    record.TopicID
	p     int32
}

func (k *fetchKey) sameTopic(o *fetchKey) bool { return k.topic == o.topic && k.id == o.id }

// fetchWant is what a client asks of one partition.
type fetchWant struct {
	offset       int64
	logStart     int64 // of the follower's log
	maxBytes     int32
	leaderEpoch  int32
	fetchedEpoch int32
}

// sessionPart is one partition of a session. What is sent is left out of the
// next reply unless it changed.
type sessionPart struct {
	key      fetchKey
	topic    string // resolved name, "" while the id is unknown
	want     fetchWant
	sentHW   int64 // high watermark last sent; -1 makes the next reply name the partition
	sentLogS int64 // log start offset last sent
}

// session is one fetch session. Its order is the order of reading: partitions
// that gave records go to the end, so that all get their turn.
type session struct {
	id      int32
	byID    bool // uses topic ids
	created time.Time

	lastUsed time.Time // guarded by the cache's mutex
	size     int       // partitions, as the cache counts them; likewise

	mu    sync.Mutex // guards what follows
	epoch int32      // of the next request
	order *list.List // of *sessionPart
	parts map[fetchKey]*list.Element
}

// sessionCache holds the sessions, at most max of them.
type sessionCache struct {
	max, maxParts int
	minAge        time.Duration // an idle or too small session is evicted only after it
	now           func() time.Time

	mu       sync.Mutex // guards what follows; never taken while a session's is held
	sessions map[int32]*session
	parts    int
}

var (
	sessionsOpen    = metrics.NewGauge("firn_api_fetch_sessions", nil)
	sessionsEvicted = metrics.NewCounter("firn_api_fetch_sessions_evicted_total")
	sessionsMade    = metrics.NewCounter("firn_api_fetch_sessions_created_total")
	sessionsRefused = metrics.NewCounter("firn_api_fetch_sessions_refused_total") // for want of room
)

func newSessionCache(max, maxParts int, minAge time.Duration, now func() time.Time) *sessionCache {
	return &sessionCache{max: max, maxParts: maxParts, minAge: minAge, now: now, sessions: map[int32]*session{}}
}

// fetchPart is one partition of one Fetch request.
type fetchPart struct {
	key   fetchKey
	topic string // resolved name, "" for an id that is unknown
	want  fetchWant
	reply fetchReply
	p     *partition.Partition // as it was last resolved, nil when it was not

	counted bool            // a follower's progress was told to the partition
	quota   *throttle.Quota // of what a follower copies; nil: none
	told    int64           // high watermark that the session's last reply had, -1 for none
}

// fetchContext is the place of one Fetch request in its session.
type fetchContext struct {
	session *session // nil: full or without a session
	epoch   int32    // of session at the time of its reply
	create  bool     // full: make a session of what is answered
	byID    bool
	parts   []*fetchPart
}

// begin finds the session of a request and applies the request's changes.
// The error is a top-level one: no partition is answered.
func (sc *sessionCache) begin(id, epoch int32, byID bool, wanted []*fetchPart, forget []fetchKey, img *metastore.Image) (*fetchContext, error) {
	if epoch == newSessionEpoch || epoch == noSessionEpoch {
		if id != 0 {
			sc.remove(id)
		}
		return &fetchContext{create: epoch == newSessionEpoch, byID: byID, parts: distinct(wanted, img)}, nil
	}
	sc.mu.Lock()
	s := sc.sessions[id]
	sc.mu.Unlock()
	if s == nil {
		return nil, kerr.FetchSessionIDNotFound
	}
	s.mu.Lock()
	if s.epoch != epoch {
		s.mu.Unlock()
		return nil, kerr.InvalidFetchSessionEpoch
	}
	if s.byID != byID {
		s.mu.Unlock()
		return nil, kerr.FetchSessionTopicIDError
	}
	s.update(wanted, forget)
	size := s.order.Len()
	ctx := &fetchContext{byID: byID}
	if size > 0 {
		s.epoch = nextSessionEpoch(s.epoch)
		ctx.session, ctx.epoch = s, s.epoch
		ctx.parts = s.list(img)
	}
	s.mu.Unlock()
	if size == 0 { // the session has ended; what the request names is answered all the same
		sc.remove(id)
		ctx.parts = distinct(wanted, img)
		return ctx, nil
	}
	if !sc.touch(s, size) {
		return nil, kerr.FetchSessionIDNotFound
	}
	return ctx, nil
}

// distinct keeps one entry per partition: the place of the first, the values
// of the last. The topics are resolved.
func distinct(in []*fetchPart, img *metastore.Image) []*fetchPart {
	seen := make(map[fetchKey]*fetchPart, len(in))
	out := in[:0]
	for _, p := range in {
		if have := seen[p.key]; have != nil {
			have.want = p.want
			continue
		}
		p.topic, p.told = resolve(p.key, img), -1
		seen[p.key] = p
		out = append(out, p)
	}
	return out
}

// resolve gives the name of the topic that key means, "" for an unknown id.
func resolve(key fetchKey, img *metastore.Image) string {
	if key.id.IsZero() {
		return key.topic
	}
	if t := img.TopicIDs[key.id]; t != nil {
		return t.Name
	}
	return ""
}

// update applies a request's changes. The caller holds s.mu.
func (s *session) update(wanted []*fetchPart, forget []fetchKey) {
	for _, w := range wanted {
		if e := s.parts[w.key]; e != nil {
			sp := e.Value.(*sessionPart)
			if w.want.leaderEpoch >= 0 && sp.want.leaderEpoch >= 0 && w.want.leaderEpoch != sp.want.leaderEpoch {
				sp.sentHW = -1 // who follows anew may not have taken in what was sent
			}
			sp.want = w.want
			continue
		}
		s.parts[w.key] = s.order.PushBack(&sessionPart{key: w.key, want: w.want, sentHW: -1, sentLogS: -1})
	}
	for _, k := range forget {
		if e := s.parts[k]; e != nil {
			s.order.Remove(e)
			delete(s.parts, k)
		}
	}
}

// list gives the session's partitions in order. A name once resolved is kept,
// so that a topic that was made anew shows as INCONSISTENT_TOPIC_ID. The
// caller holds s.mu.
func (s *session) list(img *metastore.Image) []*fetchPart {
	all := make([]fetchPart, s.order.Len())
	out := make([]*fetchPart, 0, len(all))
	for e := s.order.Front(); e != nil; e = e.Next() {
		sp := e.Value.(*sessionPart)
		if sp.topic == "" {
			sp.topic = resolve(sp.key, img)
		}
		fp := &all[len(out)]
		fp.key, fp.topic, fp.want, fp.told = sp.key, sp.topic, sp.want, sp.sentHW
		out = append(out, fp)
	}
	return out
}

// finish decides which of the context's partitions the reply names, and under
// which session id. Partitions left out have no spans to release.
func (sc *sessionCache) finish(fc *fetchContext) (id int32, parts []*fetchPart, err error) {
	if fc.create {
		return sc.create(fc), fc.parts, nil
	}
	s := fc.session
	if s == nil {
		return 0, fc.parts, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch != fc.epoch { // another request of the session came in between
		return s.id, nil, kerr.InvalidFetchSessionEpoch
	}
	out := fc.parts[:0:0]
	for _, p := range fc.parts {
		e := s.parts[p.key]
		if e == nil {
			continue
		}
		if e.Value.(*sessionPart).changed(&p.reply) {
			out = append(out, p)
		}
		if p.reply.size() > 0 {
			s.order.MoveToBack(e)
		}
	}
	return s.id, out, nil
}

// changed says whether the reply must name the partition, and remembers what
// is sent.
func (sp *sessionPart) changed(r *fetchReply) bool {
	must := r.size() > 0 || r.diverging != nil || r.elsewhere
	if hw := int64(r.extent.HighWatermark); hw != sp.sentHW {
		sp.sentHW, must = hw, true
	}
	if start := int64(r.extent.LogStart); start != sp.sentLogS {
		sp.sentLogS, must = start, true
	}
	if r.code != 0 {
		sp.sentHW, must = -1, true // named again when the error is gone
	}
	return must
}

// create makes a session of what a full request asked for; 0 when there is no
// room.
func (sc *sessionCache) create(fc *fetchContext) int32 {
	now := sc.now()
	size := len(fc.parts)
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.sessions) >= sc.max && !sc.evict(size, now) || sc.parts+size > sc.maxParts {
		sessionsRefused.Inc()
		return 0
	}
	s := &session{byID: fc.byID, created: now, lastUsed: now, size: size, epoch: nextSessionEpoch(newSessionEpoch),
		order: list.New(), parts: make(map[fetchKey]*list.Element, size)}
	for _, p := range fc.parts {
		sp := &sessionPart{key: p.key, topic: p.topic, want: p.want, sentHW: int64(p.reply.extent.HighWatermark), sentLogS: int64(p.reply.extent.LogStart)}
		if p.reply.code != 0 {
			sp.sentHW = -1
		}
		s.parts[p.key] = s.order.PushBack(sp)
	}
	for s.id == 0 || sc.sessions[s.id] != nil {
		s.id = rand.Int32()
	}
	sc.sessions[s.id] = s
	sc.parts += size
	sessionsMade.Inc()
	sessionsOpen.Inc()
	return s.id
}

// evict makes room for a session of size partitions: the session unused for
// longest if that is longer than minAge, else the smallest of those older than
// minAge if it is smaller than the new one. The caller holds sc.mu.
func (sc *sessionCache) evict(size int, now time.Time) bool {
	var stale, small *session
	for _, s := range sc.sessions {
		if stale == nil || s.lastUsed.Before(stale.lastUsed) {
			stale = s
		}
		if now.Sub(s.created) > sc.minAge && (small == nil || s.size < small.size || s.size == small.size && s.id < small.id) {
			small = s
		}
	}
	switch {
	case stale != nil && now.Sub(stale.lastUsed) > sc.minAge:
		sc.drop(stale)
	case small != nil && small.size < size:
		sc.drop(small)
	default:
		return false
	}
	sessionsEvicted.Inc()
	return true
}

// drop forgets s. The caller holds sc.mu.
func (sc *sessionCache) drop(s *session) {
	delete(sc.sessions, s.id)
	sc.parts -= s.size
	sessionsOpen.Dec()
}

func (sc *sessionCache) remove(id int32) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if s := sc.sessions[id]; s != nil {
		sc.drop(s)
	}
}

// touch notes that s was used and has now size partitions. It drops s and
// returns false when all sessions together became too large.
func (sc *sessionCache) touch(s *session, size int) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	s.lastUsed = sc.now()
	if sc.sessions[s.id] != s {
		return true // evicted meanwhile; this request is still answered
	}
	sc.parts += size - s.size
	s.size = size
	if sc.parts > sc.maxParts {
		sc.drop(s)
		return false
	}
	return true
}

// count gives the number of sessions and of their partitions.
func (sc *sessionCache) count() (sessions, parts int) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return len(sc.sessions), sc.parts
}
