package wire

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// Why a connection was closed by the broker, or a reply could not be sent:
// the values of firn_wire_errors_total{reason}.
const (
	reasonConnections = "too_many_connections"
	reasonFrameSize   = "frame_size"
	reasonUnsupported = "unsupported"
	reasonMalformed   = "malformed"
	reasonTruncated   = "truncated"
	reasonReadTimeout = "read_timeout"
	reasonReset       = "reset"
	reasonSlowReader  = "write_timeout"
	reasonWrite       = "write"
	reasonHandler     = "handler"
	reasonShortFile   = "short_file"
	reasonReadFile    = "read_file"
	reasonReply       = "reply"
)

var (
	mConnections   = metrics.GetOrCreateGauge(`firn_wire_connections`, nil)
	mInflight      = metrics.GetOrCreateGauge(`firn_wire_inflight_requests`, nil)
	mInflightBytes = metrics.GetOrCreateGauge(`firn_wire_inflight_request_bytes`, nil)
	mAccepted      = metrics.GetOrCreateCounter(`firn_wire_accepted_total`)
	mIdle          = metrics.GetOrCreateCounter(`firn_wire_idle_closed_total`)
	mRequestBytes  = metrics.GetOrCreateCounter(`firn_wire_request_bytes_total`)
	mReplyBytes    = metrics.GetOrCreateCounter(`firn_wire_reply_bytes_total`)
	mSendfile      = metrics.GetOrCreateCounter(`firn_wire_file_bytes_total{how="sendfile"}`)
	mCopied        = metrics.GetOrCreateCounter(`firn_wire_file_bytes_total{how="copy"}`)
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

func countError(reason string) {
	metrics.GetOrCreateCounter(fmt.Sprintf(`firn_wire_errors_total{reason=%q}`, reason)).Inc()
}

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
