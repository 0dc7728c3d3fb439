package kafkadiff

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// conn is a connection to a broker that matches answers with requests by
// correlation id and knows the order in which they were sent.
type conn struct {
	c net.Conn

	mu      sync.Mutex
	pending []*exchange // sent and not answered, oldest first
	ended   bool        // the broker closed it, or we did
	tells   bool        // the next request says whether the broker closed it
}

// exchange is a request on its way.
type exchange struct {
	conn  *conn
	frame frame
	done  chan struct{} // closed once answer or word is there
	body  []byte        // what followed the correlation id
	word  string        // closed, noAnswer, or what is wrong
}

func (e *exchange) finish(body []byte, word string) {
	e.body, e.word = body, word
	close(e.done)
}

const maxAnswer = 256 << 20

func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	k := &conn{c: c}
	go k.read()
	return k, nil
}

func (k *conn) read() {
	r := bufio.NewReaderSize(k.c, 64<<10)
	for {
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			k.end(closed)
			return
		}
		size := int32(binary.BigEndian.Uint32(head[:]))
		if size < 4 || size > maxAnswer {
			k.end(fmt.Sprintf("an answer of %d bytes", size))
			return
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(r, body); err != nil {
			k.end(closed)
			return
		}
		k.answered(int32(binary.BigEndian.Uint32(head[4:])), body)
	}
}

// answered gives the frame to its request; those that were sent before it get
// no answer any more, since a broker answers in order.
func (k *conn) answered(correlation int32, body []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, e := range k.pending {
		if e.frame.correlation != correlation {
			continue
		}
		for _, before := range k.pending[:i] {
			before.finish(nil, noAnswer)
		}
		k.pending = slices.Delete(k.pending, 0, i+1)
		e.finish(body, "")
		return
	}
	if len(k.pending) > 0 {
		k.pending[0].finish(nil, "an answer with another correlation id")
		k.pending = k.pending[1:]
	}
}

func (k *conn) end(word string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	for _, e := range k.pending {
		e.finish(nil, word)
	}
	k.pending = nil
	k.c.Close()
}

// usable says whether a request may be sent: it can be, or that it cannot is
// its answer. What follows a request without an answer is closed, however soon
// the broker did that.
func (k *conn) usable() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.ended || k.tells
}

// tell makes the next request say whether the broker closed the connection.
func (k *conn) tell(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tells = yes
}

// send writes a frame; the exchange is finished in any case.
func (k *conn) send(f frame) *exchange {
	e := &exchange{conn: k, frame: f, done: make(chan struct{})}
	k.mu.Lock()
	if k.ended {
		k.mu.Unlock()
		e.finish(nil, closed)
		return e
	}
	k.pending = append(k.pending, e)
	k.mu.Unlock()
	if err := k.c.SetWriteDeadline(time.Now().Add(30 * time.Second)); err == nil {
		_, err = k.c.Write(f.bytes)
		// A broker that closed has maybe answered before: the reader finds out.
		if err != nil && !errors.Is(err, net.ErrClosed) && isTimeout(err) {
			k.end("not read by the broker")
		}
	}
	return e
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// wait gives the exchange's end, or says false when it takes longer.
func (e *exchange) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-e.done:
		return true
	case <-timer.C:
		return false
	}
}

func (k *conn) close() {
	k.end(closed)
	k.tell(false)
}

// closeWrite says that nothing more is sent; answers can still come.
func (k *conn) closeWrite() {
	if t, ok := k.c.(*net.TCPConn); ok {
		_ = t.CloseWrite() // when the broker was first, it shows in the answers
	}
}
