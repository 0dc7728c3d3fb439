package wire

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Peers that ask for large replies and never read them hold no more than
// MaxInflightBytes of them for long, however many they are; those that read
// are served meanwhile.
func TestUnreadRepliesOfManyAreGivenUp(t *testing.T) {
	const limit, size, hostile = 8 << 20, 1 << 20, 100
	var served atomic.Int32
	inBubble(t, Config{MaxInflightBytes: limit, IdleTimeout: time.Hour}, bigReplies(size, &served), func(t *testing.T, l *pipeListener, log *logLines) {
		ask := kmsg.NewPtrMetadataRequest()
		ask.Version = 1
		closed := mClosed[reasonUnread].Get()
		var conns []net.Conn
		for range hostile {
			nc := l.dial()
			nc.Write(frame(1, ask))
			conns = append(conns, nc)
			synctest.Wait()
			if n := l.server.replyBytes.Load(); n > limit+2*size {
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
		if d := time.Since(start); d > 20*unreadTimeout {
			t.Errorf("an honest peer waited %v", d)
		}
		time.Sleep(20 * unreadTimeout)
		if n := l.server.replyBytes.Load(); n > limit {
			t.Errorf("%d bytes of replies still wait", n)
		}
		if n := mClosed[reasonUnread].Get() - closed; n < hostile-limit/size-1 {
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
			time.Sleep(unreadTimeout - time.Second)
		}
		oneLine(t, log, reasonUnread)
		slow.Close()
		silent.Close()
	})
}

// Peers that send all but the end of a large JoinGroup cannot make the broker
// hold more than MaxInflightBytes of them; a common JoinGroup gets through.
func TestArrivingJoinsAreBounded(t *testing.T) {
	const limit = 4 << 20
	inBubble(t, Config{MaxInflightBytes: limit}, echo, func(t *testing.T, l *pipeListener, log *logLines) {
		before, held := mClosed[reasonJoining].Get(), mInflightBytes.Get()
		join := kmsg.NewPtrJoinGroupRequest()
		join.Version, join.Group = 5, "g"
		join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "p", Metadata: make([]byte, smallJoin-1000)}}
		whole := frame(1, join)
		var conns []net.Conn
		for range 12 {
			nc := l.dial()
			nc.Write(whole[:len(whole)-1])
			conns = append(conns, nc)
			synctest.Wait()
			if n := mInflightBytes.Get() - held; n > limit+smallJoin {
				t.Fatalf("%v bytes are held for %d peers", n, len(conns))
			}
		}
		if n := mClosed[reasonJoining].Get() - before; n < 8 {
			t.Errorf("%d of 12 were closed", n)
		}
		join.Protocols[0].Metadata = make([]byte, 10<<10)
		honest := l.dial()
		go honest.Write(frame(2, join))
		if id, _, err := readReply(honest); err != nil || id != 2 {
			t.Errorf("id %d, %v", id, err)
		}
		for _, nc := range append(conns, honest) {
			nc.Close()
		}
		synctest.Wait()
		if n := l.server.joining.Load(); n != 0 {
			t.Errorf("%d bytes are still counted", n)
		}
	})
}
