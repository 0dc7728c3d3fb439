package wire

import (
	"net"
	"time"
)

const (
	// nearBuffer is what SO_SNDBUF is set to on a new connection, bytes; the
	// kernel counts its own overhead too and takes twice as much. With a buffer
	// that the kernel sizes itself, sendfile to a near peer is at half the speed
	// and twice the CPU: what is sent is no longer in the processor's cache when
	// the peer takes it.
	nearBuffer = 200 << 10
	// farBuffer is what it is set to at most.
	farBuffer = 4 << 20
	// lookEvery is how long a connection sends before it looks again whether
	// its buffer is right, and it has then sent as much as the buffer at least.
	lookEvery = 100 * time.Millisecond
)

// path is what the kernel knows of the way to a peer; 0 is unknown.
type path struct {
	rtt    time.Duration // round trip, the shortest of late: without what waits in queues
	rate   int64         // bytes per second that arrived lately
	window int64         // bytes that may be on their way (congestion window)
}

// bufferFor gives the send buffer for a path, bytes of SO_SNDBUF: twice what
// is on its way at a time, so that there is always more to send when an
// acknowledgement comes. While the buffer is what holds back the rate, what is
// on its way fills it, and so it doubles from look to look. It stays at now
// when the difference is small.
func bufferFor(p path, now int) int {
	if p.rtt <= 0 || p.rate <= 0 || p.window <= 0 {
		return now
	}
	underway := min(float64(p.rate)*p.rtt.Seconds(), float64(p.window))
	want := int(min(max(2*underway, nearBuffer), farBuffer))
	if want > now+now/4 || want < now/2 || want == farBuffer || want == nearBuffer {
		return want
	}
	return now
}

// sendBuffer keeps a connection's send buffer right. The zero value leaves it
// alone.
type sendBuffer struct {
	tcp    *net.TCPConn
	size   int       // of SO_SNDBUF as it was asked for; 0: not ours to change
	looked time.Time // when it was last looked at
	sent   int       // bytes since then
}

// newSendBuffer sets up a new connection as Config.SendBuffer wants.
func newSendBuffer(tcp *net.TCPConn, configured int) sendBuffer {
	// A failure leaves the kernel's own size, which works too.
	switch {
	case configured > 0:
		_ = tcp.SetWriteBuffer(configured)
	case configured == 0 && tcp.SetWriteBuffer(nearBuffer) == nil:
		return sendBuffer{tcp: tcp, size: nearBuffer}
	}
	return sendBuffer{}
}

// due says whether it is time to look again, after n more bytes were sent.
func (b *sendBuffer) due(n int) bool {
	b.sent += n
	if b.size == 0 || b.sent < b.size {
		return false
	}
	now := time.Now()
	if b.looked.IsZero() {
		b.looked = now // the kernel knows nothing yet
	}
	if now.Sub(b.looked) < lookEvery {
		return false
	}
	b.looked, b.sent = now, 0
	return true
}

// follow makes the buffer fit the path.
func (b *sendBuffer) follow() {
	size := bufferFor(pathTo(b.tcp), b.size)
	if size == b.size || !resizeBuffer(b.tcp, size) {
		return
	}
	mSendBuffer.Add(float64(size - b.size))
	if size > b.size {
		mSendBufferGrown.Inc()
	} else {
		mSendBufferShrunk.Inc()
	}
	b.size = size
}
