package wire

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// waitingHandler answers Fetch requests when its context ends, others at once.
var waitingHandler = handlerFunc(func(ctx context.Context, req *Request, reply func(Reply)) {
	resp := req.Body.ResponseKind()
	if _, ok := req.Body.(*kmsg.FetchRequest); !ok {
		reply(Reply{Body: resp})
		return
	}
	context.AfterFunc(ctx, func() { reply(Reply{Body: resp}) })
})

// fetchFrame is a Fetch request of about n bytes.
func fetchFrame(n int) []byte {
	f := fetchRequest(4)
	f.Topics = []kmsg.FetchRequestTopic{{Topic: "t", Partitions: make([]kmsg.FetchRequestTopicPartition, n/16)}}
	return frame(1, f)
}

// produceFrame is a Produce request with n bytes of records.
func produceFrame(n int) []byte {
	p := produce(9)
	p.Topics = []kmsg.ProduceRequestTopic{{Partitions: []kmsg.ProduceRequestTopicPartition{{Records: make([]byte, n)}}}}
	return frame(1, p)
}

// mustServe has a request answered within a time.
func mustServe(t *testing.T, l *pipeListener, what string, whole []byte, within time.Duration) {
	t.Helper()
	nc := l.dial()
	defer nc.Close()
	start := time.Now()
	go nc.Write(whole)
	if _, _, err := readReply(nc); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if d := time.Since(start); d > within {
		t.Errorf("%s took %v", what, d)
	}
}

// All bytes of requests in flight count, be they ever so small: what polls
// that wait for long hold is bounded, and others are served meanwhile.
func TestWaitingRequestsAreBounded(t *testing.T) {
	const limit, peers = 4 << 20, 300
	for _, size := range []int{2 << 10, 60 << 10, 200 << 10, 900 << 10} {
		inBubble(t, Config{MaxInflightBytes: limit}, waitingHandler, func(t *testing.T, l *pipeListener, log *logLines) {
			before := mInflightBytes.Get()
			whole := fetchFrame(size)
			var conns []net.Conn
			for range peers {
				nc := l.dial()
				go nc.Write(whole)
				conns = append(conns, nc)
			}
			for range 10 {
				synctest.Wait()
				if n := mInflightBytes.Get() - before; n > limit+peers*readBuffer {
					t.Fatalf("%d requests of %d bytes hold %v", peers, size, n)
				}
				mustServe(t, l, "Heartbeat", frame(1, heartbeat(0)), 0)
				mustServe(t, l, "a small Produce", produceFrame(1<<10), 0)
				mustServe(t, l, "a large Produce", produceFrame(500<<10), 2*stallTimeout)
				time.Sleep(time.Second)
			}
			for _, nc := range conns {
				nc.Close()
			}
			time.Sleep(time.Hour) // until those that waited for memory are gone, too
		})
	}
}

// Peers that announce a large request and send little of it hold what they
// sent, and do not keep anybody from sending one.
func TestAnnouncedBytesAreNotHeld(t *testing.T) {
	const limit, peers = 8 << 20, 1000
	for _, announced := range []int{60 << 10, 1 << 20, 90 << 20} {
		inBubble(t, Config{MaxInflightBytes: limit}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
			before := mInflightBytes.Get()
			whole := produceFrame(announced)[:1000]
			var conns []net.Conn
			for range peers {
				nc := l.dial()
				nc.Write(whole)
				conns = append(conns, nc)
			}
			synctest.Wait()
			if n := mInflightBytes.Get() - before; n > limit+peers*readBuffer {
				t.Fatalf("%d announced requests hold %v bytes", peers, n)
			}
			for _, size := range []int{1 << 10, 60 << 10, 900 << 10, 3 << 20} {
				mustServe(t, l, "Produce", produceFrame(size), 2*stallTimeout)
			}
			for _, nc := range conns {
				nc.Close()
			}
		})
	}
}

// JoinGroup requests that wait for others hold nothing here: the first members
// of a group cannot keep out its last.
func TestJoinsThatWaitAreNotHeld(t *testing.T) {
	const members = 20
	var joined atomic.Int32
	all := make(chan struct{})
	h := handlerFunc(func(_ context.Context, req *Request, reply func(Reply)) {
		if joined.Add(1) == members {
			close(all)
		}
		go func() {
			<-all
			reply(Reply{Body: req.Body.ResponseKind()})
		}()
	})
	inBubble(t, Config{MaxInflightBytes: 4 << 20}, h, func(t *testing.T, l *pipeListener, log *logLines) {
		all = make(chan struct{}) // of the bubble
		join := kmsg.NewPtrJoinGroupRequest()
		join.Version, join.Group = 5, "g"
		var conns []net.Conn
		for i := range members {
			join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "p", Metadata: make([]byte, 900<<10+i%2*(300<<10))}}
			nc, whole := l.dial(), frame(1, join)
			go nc.Write(whole)
			conns = append(conns, nc)
		}
		for _, nc := range conns {
			if _, _, err := readReply(nc); err != nil {
				t.Error(err)
			}
			nc.Close()
		}
		if d := l.server.held.Load(); d != 0 {
			t.Errorf("%d bytes are still counted", d)
		}
		if lines := log.all(); len(lines) > 0 {
			t.Errorf("log: %q", lines)
		}
	})
}

// Peers that ask for large replies and never read them hold no more than
// MaxInflightBytes of them for long, however many they are; those that read
// are served meanwhile.
func TestUnreadRepliesOfManyAreGivenUp(t *testing.T) {
	const limit, size, hostile = 8 << 20, 1 << 20, 100
	var served atomic.Int32
	inBubble(t, Config{MaxInflightBytes: limit, IdleTimeout: time.Hour}, bigReplies(size, &served), func(t *testing.T, l *pipeListener, log *logLines) {
		ask := kmsg.NewPtrMetadataRequest()
		ask.Version = 1
		closed := mClosed[reasonStalled].Get()
		var conns []net.Conn
		for range hostile {
			nc := l.dial()
			nc.Write(frame(1, ask))
			conns = append(conns, nc)
			synctest.Wait()
			if n := l.server.held.Load(); n > limit+2*size {
				t.Fatalf("%d bytes of replies wait for %d peers", n, len(conns))
			}
		}
		if n := served.Load(); n > limit/size+1 {
			t.Errorf("%d requests were served before one peer read", n)
		}
		honest := l.dial()
		if err := roundTrip(honest); err != nil { // a small reply does not wait
			t.Fatal(err)
		}
		go honest.Write(frame(7, ask))
		start := time.Now()
		if id, _, err := readReply(honest); err != nil || id != 7 {
			t.Fatalf("id %d, %v", id, err)
		}
		if d := time.Since(start); d > 20*stallTimeout {
			t.Errorf("an honest peer waited %v", d)
		}
		time.Sleep(20 * stallTimeout)
		if n := l.server.held.Load(); n > limit {
			t.Errorf("%d bytes of replies still wait", n)
		}
		if n := mClosed[reasonStalled].Get() - closed; n < hostile-limit/size-1 {
			t.Errorf("%d peers were closed", n)
		}
		if err := roundTrip(honest); err != nil {
			t.Error("the honest peer was closed too")
		}
		for _, nc := range append(conns, honest) {
			nc.Close()
		}
	})
}

// A peer that reads slowly is not closed while others are that do not read.
func TestSlowReaderOutlastsThoseThatDoNotRead(t *testing.T) {
	var served atomic.Int32
	inBubble(t, Config{MaxInflightBytes: 4 << 20, IdleTimeout: time.Hour}, bigReplies(3<<20, &served), func(t *testing.T, l *pipeListener, log *logLines) {
		ask := kmsg.NewPtrMetadataRequest()
		ask.Version = 1
		slow, silent := l.dial(), l.dial()
		slow.Write(frame(1, ask))
		silent.Write(frame(1, ask))
		buf := make([]byte, writeStep)
		for got := 0; got < 3<<20; {
			n, err := slow.Read(buf)
			if err != nil {
				t.Fatalf("after %d bytes: %v", got, err)
			}
			got += n
			time.Sleep(stallTimeout - time.Second)
		}
		oneLine(t, log, reasonStalled)
		slow.Close()
		silent.Close()
	})
}

// Peers that send all but the end of a large JoinGroup, which has no share of
// the budget, are bounded too; a common one gets through.
func TestArrivingJoinsAreBounded(t *testing.T) {
	const limit, peers = 4 << 20, 12
	inBubble(t, Config{MaxInflightBytes: limit}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
		before, closed := mInflightBytes.Get(), mClosed[reasonStalled].Get()
		join := kmsg.NewPtrJoinGroupRequest()
		join.Version, join.Group = 5, "g"
		join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "p", Metadata: make([]byte, smallPoll-1000)}}
		whole := frame(1, join)
		var conns []net.Conn
		for range peers {
			nc := l.dial()
			go nc.Write(whole[:len(whole)-1])
			conns = append(conns, nc)
			synctest.Wait()
			if n := mInflightBytes.Get() - before; n > limit+peers*readBuffer {
				t.Fatalf("%v bytes are held for %d peers", n, len(conns))
			}
		}
		join.Protocols[0].Metadata = make([]byte, 10<<10)
		mustServe(t, l, "JoinGroup", frame(2, join), 3*stallTimeout)
		time.Sleep(time.Minute)
		if n := mClosed[reasonStalled].Get() - closed; n < peers-limit/smallPoll {
			t.Errorf("%d were closed", n)
		}
		for _, nc := range conns {
			nc.Close()
		}
		time.Sleep(time.Hour)
		if n := l.server.held.Load(); n != 0 {
			t.Errorf("%d bytes are still counted", n)
		}
	})
}

// A handler that makes few large replies at one time, and asks for room before
// each, keeps to the limit whatever comes at once.
func TestRepliesWaitForRoom(t *testing.T) {
	const limit, size, hostile = 8 << 20, 1 << 20, 100
	ask := kmsg.NewPtrMetadataRequest()
	ask.Version = 1
	whole := frame(1, ask)
	place := make(chan struct{}, 1)
	var served atomic.Int32
	big := bigReplies(size, &served)
	for what, h := range map[string]Handler{
		"at once": handlerFunc(func(ctx context.Context, req *Request, reply func(Reply)) {
			place <- struct{}{}
			defer func() { <-place }()
			if req.AwaitRoom() {
				big.Serve(ctx, req, reply)
			} else {
				reply(Reply{Close: true})
			}
		}),
		"later": handlerFunc(func(ctx context.Context, req *Request, reply func(Reply)) {
			go func() {
				place <- struct{}{}
				defer func() { <-place }()
				if req.AwaitRoom() {
					big.Serve(ctx, req, reply)
				} else {
					reply(Reply{Close: true})
				}
			}()
		}),
	} {
		inBubble(t, Config{MaxInflightBytes: limit}, h, func(t *testing.T, l *pipeListener, log *logLines) {
			place = make(chan struct{}, 1) // of the bubble
			served.Store(0)
			var conns []net.Conn
			for range hostile {
				nc := l.dial()
				nc.Write(whole[:headSize+2])
				conns = append(conns, nc)
			}
			synctest.Wait()
			for _, nc := range conns {
				go nc.Write(whole[headSize+2:])
			}
			synctest.Wait()
			if n := l.server.held.Load(); n > limit+2*size {
				t.Errorf("%s: %d bytes of replies wait for %d peers", what, n, hostile)
			}
			for range 100 {
				time.Sleep(stallTimeout / 5)
				synctest.Wait()
				if n := l.server.held.Load(); n > limit+2*size {
					t.Fatalf("%s: %d bytes of replies wait later", what, n)
				}
			}
			if n := served.Load(); n < hostile/2 {
				t.Errorf("%s: %d were served", what, n)
			}
			for _, nc := range conns {
				nc.Close()
			}
			time.Sleep(time.Hour)
		})
	}
}
