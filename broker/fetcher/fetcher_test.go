package fetcher

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// leader is a server on loopback that a test answers fetches on.
type leader struct {
	t  *testing.T
	ln net.Listener

	asked chan *asked
	over  chan struct{} // closed at the test's end
}

// asked is a request that waits for its answer.
type asked struct {
	req  *kmsg.FetchRequest
	conn int // the how manieth connection it came on, from 1
	nc   net.Conn
	corr int32
}

func newLeader(t *testing.T) *leader {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &leader{t: t, ln: ln, asked: make(chan *asked, 16), over: make(chan struct{})}
	var work sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	work.Go(func() {
		for n := 1; ; n++ {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, nc)
			mu.Unlock()
			work.Go(func() { l.serve(nc, n) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		close(l.over)
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return l
}

func (l *leader) serve(nc net.Conn, n int) {
	for {
		var size [4]byte
		if _, err := io.ReadFull(nc, size[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(nc, b); err != nil {
			return
		}
		corr := int32(binary.BigEndian.Uint32(b[4:]))
		client := int(binary.BigEndian.Uint16(b[8:]))
		req := kmsg.NewPtrFetchRequest()
		req.Version = int16(binary.BigEndian.Uint16(b[2:]))
		if err := req.ReadFrom(b[10+client+1:]); err != nil {
			l.t.Errorf("request: %v", err)
			return
		}
		select {
		case l.asked <- &asked{req, n, nc, corr}:
		case <-l.over:
			return
		}
	}
}

// next gives the next request.
func (l *leader) next() *asked {
	l.t.Helper()
	select {
	case a := <-l.asked:
		return a
	case <-time.After(20 * time.Second):
		l.t.Fatal("nothing is asked")
		return nil
	}
}

func (a *asked) answer(session int32, code int16, parts ...kmsg.FetchResponseTopic) {
	resp := kmsg.NewPtrFetchResponse()
	resp.Version, resp.SessionID, resp.ErrorCode, resp.Topics = a.req.Version, session, code, parts
	b := append(make([]byte, 4), 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(b[4:], uint32(a.corr))
	b = resp.AppendTo(b)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	_, _ = a.nc.Write(b)
}

// parts counts what a request names, and forgets.
func (a *asked) parts() (named, forgotten int) {
	for _, t := range a.req.Topics {
		named += len(t.Partitions)
	}
	for _, t := range a.req.ForgottenTopics {
		forgotten += len(t.Partitions)
	}
	return named, forgotten
}

func reply(id record.TopicID, p int32, code int16, batches []byte) kmsg.FetchResponseTopic {
	t := kmsg.NewFetchResponseTopic()
	t.TopicID = id
	part := kmsg.NewFetchResponseTopicPartition()
	part.Partition, part.ErrorCode, part.RecordBatches, part.HighWatermark = p, code, batches, 5
	t.Partitions = append(t.Partitions, part)
	return t
}

// follows is a Replica: each answer with records moves its end by one.
type follows struct {
	id record.TopicID
	tp record.TopicPartition

	mu   sync.Mutex
	end  record.Offset
	got  []replica.Answer
	held chan func(error) // nil: what comes is durable at once
	fail error
}

func (f *follows) TP() record.TopicPartition { return f.tp }
func (f *follows) TopicID() record.TopicID   { return f.id }

func (f *follows) NextFetch() (replica.Ask, record.Offset, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return replica.Ask{Epoch: 3, Offset: f.end, LastEpoch: 2}, 0, true
}

func (f *follows) Replicate(a replica.Answer, batches []byte, durable func(error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, a)
	if f.fail != nil {
		return f.fail
	}
	if len(batches) > 0 {
		f.end++
	}
	if f.held != nil {
		f.held <- durable
		return nil
	}
	durable(nil)
	return nil
}

func replicaOf(n byte) *follows {
	return &follows{id: record.TopicID{n}, tp: record.TopicPartition{Topic: "t", Partition: record.PartitionID(n)}}
}

func start(t *testing.T, l *leader) *Fetcher {
	f := New(Config{BrokerID: 2, Connections: 1, MaxBytes: 1 << 20, PartitionMax: 1 << 16, MaxWait: 500 * time.Millisecond, Backoff: 50 * time.Millisecond, SocketTimeout: 10 * time.Second}, Deps{
		Addr:  func(record.BrokerID) string { return l.ln.Addr().String() },
		Epoch: func() int64 { return 77 },
	})
	t.Cleanup(func() { f.Close(); goleak.VerifyNone(t, goleak.IgnoreCurrent()) })
	return f
}

// The leader is told a partition once, and then only where it moves.
func TestSession(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	one, two := replicaOf(1), replicaOf(2)
	f.Follow(one, 1)
	a := l.next()
	if a.req.ReplicaState.ID != 2 || a.req.ReplicaState.Epoch != 77 || a.req.SessionEpoch != 0 || a.req.SessionID != 0 {
		t.Errorf("%+v", a.req)
	}
	if n, _ := a.parts(); n != 1 {
		t.Errorf("%d partitions named", n)
	}
	p := a.req.Topics[0].Partitions[0]
	if p.CurrentLeaderEpoch != 3 || p.LastFetchedEpoch != 2 || p.FetchOffset != 0 || p.PartitionMaxBytes != 1<<16 {
		t.Errorf("%+v", p)
	}
	a.answer(9, 0, reply(one.id, 1, 0, []byte("records")))
	a = l.next()
	if n, _ := a.parts(); n != 1 || a.req.SessionID != 9 || a.req.SessionEpoch != 1 || a.req.Topics[0].Partitions[0].FetchOffset != 1 {
		t.Errorf("%d, %+v", n, a.req)
	}
	a.answer(9, 0) // nothing new
	a = l.next()
	if n, _ := a.parts(); n != 0 || a.req.SessionEpoch != 2 {
		t.Errorf("%d partitions named again, epoch %d", n, a.req.SessionEpoch)
	}
	a.answer(9, kerr.FetchSessionIDNotFound.Code)
	a = l.next()
	if n, _ := a.parts(); n != 1 || a.req.SessionEpoch != 0 {
		t.Errorf("%d partitions named after the session was lost, epoch %d", n, a.req.SessionEpoch)
	}
	a.answer(10, 0)
	a = l.next()
	// While that is waited for, another comes: it is asked for at once, behind.
	f.Follow(two, 1)
	b := l.next()
	if n, _ := b.parts(); n != 1 || b.conn != a.conn || b.req.SessionID != 10 || b.req.SessionEpoch != a.req.SessionEpoch+1 || record.TopicID(b.req.Topics[0].TopicID) != two.id {
		t.Errorf("%d partitions, connection %d after %d, %+v", n, b.conn, a.conn, b.req)
	}
	a.answer(10, 0) // as another waits
	b.answer(10, 0, reply(two.id, 2, 0, []byte("records")))
	a = l.next()
	if n, _ := a.parts(); n != 1 || a.req.Topics[0].Partitions[0].FetchOffset != 1 || a.req.SessionEpoch != b.req.SessionEpoch+1 {
		t.Errorf("%d partitions, %+v", n, a.req)
	}
	// One that leaves is told at once, too, and an answer that was on its way
	// counts, but for that one.
	f.Stop(two.id, two.tp.Partition)
	b = l.next()
	if n, forgotten := b.parts(); n != 0 || forgotten != 1 || b.conn != a.conn {
		t.Errorf("%d partitions, %d forgotten, connection %d after %d", n, forgotten, b.conn, a.conn)
	}
	a.answer(10, 0, reply(one.id, 1, 0, []byte("records")), reply(two.id, 2, 0, []byte("records")))
	b.answer(10, 0)
	a = l.next()
	if n, _ := a.parts(); n != 1 || a.req.Topics[0].Partitions[0].FetchOffset != 2 {
		t.Errorf("%d partitions, %+v", n, a.req)
	}
	two.mu.Lock()
	defer two.mu.Unlock()
	if two.end != 1 {
		t.Errorf("the one that left is at %d", two.end)
	}
}

// Before the leader has said which session it is, all is asked anew.
func TestAsksAnewWithoutASession(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	f.Follow(replicaOf(1), 1)
	a := l.next()
	f.Follow(replicaOf(2), 1)
	b := l.next()
	if n, _ := b.parts(); n != 2 || b.conn == a.conn || b.req.SessionEpoch != 0 {
		t.Errorf("%d partitions, connection %d after %d, %+v", n, b.conn, a.conn, b.req)
	}
}

// Nothing is asked while what came is not durable: the offset says so.
func TestAsksOnWhenDurable(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	r := replicaOf(1)
	r.held = make(chan func(error), 10)
	f.Follow(r, 1)
	l.next().answer(9, 0, reply(r.id, 1, 0, []byte("records")))
	durable := <-r.held
	select {
	case a := <-l.asked:
		t.Fatalf("asked on: %+v", a.req)
	case <-time.After(20 * time.Millisecond):
	}
	durable(nil)
	if a := l.next(); a.req.Topics[0].Partitions[0].FetchOffset != 1 {
		t.Errorf("%+v", a.req)
	}
}

// A partition that cannot go on is left out for a while, and the others go on.
func TestBacksOff(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	bad, good := replicaOf(1), replicaOf(2)
	bad.fail = errors.New("not now")
	f.Follow(bad, 1)
	f.Follow(good, 1)
	named, answers := 0, 0
	for named < 3 { // bad is asked for again and again, with pauses
		a := l.next()
		for _, top := range a.req.Topics {
			if top.TopicID == bad.id {
				named++
			}
		}
		answers++
		a.answer(9, 0, reply(bad.id, 1, kerr.UnknownLeaderEpoch.Code, nil), reply(good.id, 2, 0, []byte("records")))
	}
	if answers < 3*named {
		t.Errorf("asked for %d times in %d requests: there is no pause", named, answers)
	}
	bad.mu.Lock()
	defer bad.mu.Unlock()
	if len(bad.got) == 0 || bad.got[0].Result != replica.NotYet {
		t.Errorf("%+v", bad.got)
	}
}

// A leader that goes away is tried again, from the beginning.
func TestReconnects(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	f.Follow(replicaOf(1), 1)
	a := l.next()
	a.answer(9, 0)
	a = l.next()
	a.nc.Close()
	b := l.next()
	if n, _ := b.parts(); n != 1 || b.conn == a.conn || b.req.SessionEpoch != 0 || b.req.SessionID != 9 {
		t.Errorf("%d partitions, connection %d after %d, %+v", n, b.conn, a.conn, b.req)
	}
	// Nonsense ends a connection, and nothing else.
	_, _ = b.nc.Write([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3})
	if c := l.next(); c.conn == b.conn {
		t.Error("the connection is used on")
	}
}

func TestNobodyThere(t *testing.T) {
	tries := make(chan struct{}, 100)
	f := New(Config{BrokerID: 2, MaxWait: time.Second, Backoff: time.Millisecond, SocketTimeout: time.Second}, Deps{
		Addr:  func(record.BrokerID) string { return "x" },
		Epoch: func() int64 { return 1 },
		Dial: func(context.Context, string) (net.Conn, error) {
			tries <- struct{}{}
			return nil, errors.New("nobody there")
		},
	})
	f.Follow(replicaOf(1), 1)
	for range 3 {
		<-tries
	}
	f.Close()
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
}

// What comes between the making of a request and its answer is asked for at
// once, not when the leader has waited for records in vain.
func TestChangesWhileARequestIsMade(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	f.cfg.MaxWait = time.Hour // this leader answers nothing
	dialing, goOn := make(chan struct{}), make(chan struct{})
	var first sync.Once
	f.deps.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
		first.Do(func() {
			close(dialing)
			<-goOn
		})
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	f.Follow(replicaOf(1), 1)
	<-dialing // the request is made
	f.Follow(replicaOf(2), 1)
	close(goOn)
	for n := 0; n < 2; {
		n, _ = l.next().parts()
	}
}

// A replica that has nothing to ask yet is asked again soon, also when it is the
// only one.
func TestReplicaThatIsNotReady(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	r := &unready{follows: replicaOf(1)}
	r.left.Store(3)
	f.Follow(r, 1)
	if n, _ := l.next().parts(); n != 1 || r.left.Load() >= 0 {
		t.Errorf("%d partitions named, %d times left", n, r.left.Load())
	}
}

// unready has nothing to ask the first few times.
type unready struct {
	*follows
	left atomic.Int64
}

func (u *unready) NextFetch() (replica.Ask, record.Offset, bool) {
	if u.left.Add(-1) >= 0 {
		return replica.Ask{}, 0, false
	}
	return u.follows.NextFetch()
}

// A leader that hangs, and owes answers, does not hold up the end.
func TestEndsWhileAnswersAreOwed(t *testing.T) {
	l := newLeader(t)
	f := start(t, l)
	f.Follow(replicaOf(1), 1)
	l.next().answer(9, 0)
	l.next()
	f.Follow(replicaOf(2), 1)
	l.next()
	ended := make(chan struct{})
	go func() {
		f.Close()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(8 * time.Second): // the answers are awaited for 10 s
		t.Error("it waits for the leader")
	}
}
