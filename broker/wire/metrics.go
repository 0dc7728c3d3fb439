package wire

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Why a connection was closed: the values of firn_wire_closed_total{reason}.
// The peer's own closing and the server's are among them.
const (
	reasonPeer        = "peer"
	reasonShutdown    = "shutdown"
	reasonIdle        = "idle"
	reasonConnections = "max_connections"
	reasonPerIP       = "max_connections_per_ip"
	reasonFrameSize   = "frame_size"
	reasonKey         = "unknown_key"
	reasonVersion     = "unknown_version"
	reasonMalformed   = "malformed"
	reasonTruncated   = "truncated"
	reasonReadTimeout = "read_timeout"
	reasonReset       = "reset"
	reasonSlowReader  = "write_timeout"
	reasonStalled     = "stalled"
	reasonHalfClosed  = "half_closed"
	reasonWrite       = "write"
	reasonHandler     = "handler"
	reasonShortFile   = "short_file"
	reasonReadFile    = "read_file"
	reasonReply       = "reply"
)

var mClosed = func() map[string]*metrics.Counter {
	m := make(map[string]*metrics.Counter)
	for _, r := range []string{
		reasonPeer, reasonShutdown, reasonIdle, reasonConnections, reasonPerIP, reasonFrameSize, reasonKey, reasonVersion, reasonMalformed, reasonTruncated,
		reasonReadTimeout, reasonReset, reasonSlowReader, reasonStalled, reasonHalfClosed, reasonWrite, reasonHandler, reasonShortFile, reasonReadFile, reasonReply,
	} {
		m[r] = metrics.NewCounter(fmt.Sprintf(`firn_wire_closed_total{reason=%q}`, r))
	}
	return m
}()

// Why accepting waits.
const (
	delayFull = "max_connections"
	delayRate = "max_connection_creation_rate"
)

var (
	mDelayed        = byReason(`firn_wire_accept_delayed_total{reason=%q}`, metrics.NewCounter)
	mDelayedSeconds = byReason(`firn_wire_accept_delayed_seconds_total{reason=%q}`, metrics.NewFloatCounter)
)

func byReason[T any](name string, make func(string) T) map[string]T {
	return map[string]T{delayFull: make(fmt.Sprintf(name, delayFull)), delayRate: make(fmt.Sprintf(name, delayRate))}
}

// firn_wire_connections{listener} is Serve's.
var (
	mInflight          = metrics.NewGauge(`firn_wire_inflight_requests`, nil)
	mInflightBytes     = metrics.NewGauge(`firn_wire_inflight_request_bytes`, nil)
	mHeldBytes         = metrics.NewGauge(`firn_wire_held_bytes`, nil)
	mHeldLimit         = metrics.NewCounter(`firn_wire_held_limit_total`)
	mAccepted          = metrics.NewCounter(`firn_wire_accepted_total`)
	mRequestBytes      = metrics.NewCounter(`firn_wire_request_bytes_total`)
	mReplyBytes        = metrics.NewCounter(`firn_wire_reply_bytes_total`)
	mSendfile          = metrics.NewCounter(`firn_wire_file_bytes_total{how="sendfile"}`)
	mCopied            = metrics.NewCounter(`firn_wire_file_bytes_total{how="copy"}`)
	mSendBuffer        = metrics.NewGauge(`firn_wire_send_buffer_bytes`, nil) // asked for; the kernel may take twice as much
	mSendBufferGrown   = metrics.NewCounter(`firn_wire_send_buffer_changes_total{to="larger"}`)
	mSendBufferShrunk  = metrics.NewCounter(`firn_wire_send_buffer_changes_total{to="smaller"}`)
	mSendBufferKernel  = metrics.NewCounter(`firn_wire_send_buffer_changes_total{to="kernel"}`) // net.core.wmem_max is too low
	mBudgetWaits       = metrics.NewCounter(`firn_wire_inflight_bytes_waits_total`)
	mBudgetWaitSeconds = metrics.NewFloatCounter(`firn_wire_inflight_bytes_wait_seconds_total`)
	mTrailing          = metrics.NewCounter(`firn_wire_trailing_bytes_requests_total`)
	mAnsweredTwice     = metrics.NewCounter(`firn_wire_answered_twice_total`)
)

// perKey are the metrics of one API key, in the order of apis.
var perKey = func() (m [len(apis)]struct {
	requests *metrics.Counter
	seconds  *metrics.Histogram
}) {
	for i := range apis {
		m[i].requests = metrics.GetOrCreateCounter(fmt.Sprintf(`firn_wire_requests_total{key=%q}`, apis[i].name))
		m[i].seconds = metrics.GetOrCreateHistogram(fmt.Sprintf(`firn_wire_request_seconds{key=%q}`, apis[i].name))
	}
	return m
}()

// logLimit lets at most linesPerSecond through and counts the rest, so that
// a peer that reconnects in a loop cannot fill the disk with log lines.
type logLimit struct {
	window     atomic.Int64 // the second that lines counts
	lines      atomic.Int64
	suppressed atomic.Int64
}

const linesPerSecond = 100

// allow says whether to write a line now and how many were left out since
// the last one that was written.
func (l *logLimit) allow(now time.Time) (ok bool, leftOut int64) {
	sec := now.Unix()
	if old := l.window.Load(); old != sec && l.window.CompareAndSwap(old, sec) {
		l.lines.Store(0)
	}
	if l.lines.Add(1) > linesPerSecond {
		l.suppressed.Add(1)
		return false, 0
	}
	return true, l.suppressed.Swap(0)
}
