package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/VictoriaMetrics/metrics"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/record"
)

const (
	maxAttributes = 12  // of one point and its resource, further ones are dropped
	maxNameLen    = 200 // of a metric, as shown
	maxValueLen   = 200 // bytes of a label
	// maxPoints bounds the points of one push, further ones are dropped: each
	// has the labels of its resource, however few bytes it took.
	maxPoints = 4_000
	// maxExpansion is how many times larger than the greatest push its metrics
	// may be when they are decompressed.
	maxExpansion = 4
	// maxFields bounds what decoding a push allocates: a field of a few bytes
	// becomes an object of a hundred.
	maxFields = 200_000
	maxDepth  = 10 // of fields in fields that are counted one by one
)

var errTooMany = errors.New("metrics have too many fields")

const (
	parsersAtOnce = 2 // decoding takes memory
)

// series is one line of /metrics.
type series struct {
	value float64
	seen  time.Time // when it was last pushed
}

// seriesBytes is what a series of a key takes, about.
func seriesBytes(key string) int64 { return int64(len(key)) + 160 }

// point is one value that was pushed. key is the series without the labels of
// the client: name, then labels as Prometheus writes them.
type point struct {
	name, labels string
	value        float64
	add          bool // a delta: to be added to what is known
}

// Why points are not shown.
var (
	droppedClient = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="series of one client"}`)
	droppedAll    = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="series of all clients"}`)
	droppedPush   = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="points of one push"}`)
	droppedBytes  = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="bytes of all clients"}`)
	droppedName   = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="not asked for"}`)
	droppedKind   = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="kind of metric"}`)
	droppedValue  = metrics.NewCounter(`firn_client_telemetry_dropped_total{reason="no value"}`)
)

// parse reads a push's metrics, OpenTelemetry's MetricsData: those whose names
// begin with one of the prefixes asked for, "*" alone for all.
func parse(p Push, asked []string) ([]point, error) {
	limit := maxExpansion * p.MaxBytes
	b, err := record.Decompress(nil, record.Codec(p.Codec), p.Metrics, limit)
	if err != nil {
		return nil, fmt.Errorf("metrics do not decompress: %w", err)
	}
	if fields(b, maxDepth) > maxFields {
		return nil, errTooMany
	}
	var data metricspb.MetricsData
	if err := proto.Unmarshal(b, &data); err != nil {
		return nil, fmt.Errorf("metrics are not OTLP: %w", err)
	}
	var out []point
	for _, rm := range data.GetResourceMetrics() {
		resource := rm.GetResource().GetAttributes()
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				if !isAsked(m.GetName(), asked) {
					droppedName.Inc()
					continue
				}
				out = appendMetric(out, m, resource)
			}
		}
	}
	return out, nil
}

func isAsked(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return p == "*" || strings.HasPrefix(name, p) })
}

// fields counts a message's fields and those of the messages in them, taking
// whatever may be a message for one; what lies too deep counts by its size.
func fields(b []byte, depth int) int {
	if depth == 0 {
		return len(b) / 2
	}
	n := 0
	for len(b) > 0 && n <= maxFields {
		_, kind, used := protowire.ConsumeTag(b)
		if used < 0 {
			break
		}
		b = b[used:]
		n++
		if kind == protowire.BytesType {
			sub, size := protowire.ConsumeBytes(b)
			if size < 0 {
				break
			}
			n += fields(sub, depth-1)
			b = b[size:]
			continue
		}
		size := protowire.ConsumeFieldValue(1, kind, b)
		if size < 0 {
			break
		}
		b = b[size:]
	}
	return n
}

// appendMetric adds a metric's points. Histograms become the three series that
// Prometheus has for them; kinds that Kafka clients do not push are counted
// and dropped.
func appendMetric(out []point, m *metricspb.Metric, resource []*commonpb.KeyValue) []point {
	name := seriesName(m.GetName())
	add := func(suffix, labels string, value float64, delta bool) {
		out = append(out, point{name + suffix, labels, value, delta})
	}
	full := func() bool {
		if len(out) < maxPoints {
			return false
		}
		droppedPush.Inc()
		return true
	}
	number := func(n *metricspb.NumberDataPoint, delta bool) {
		v := 0.0
		switch n.GetValue().(type) {
		case *metricspb.NumberDataPoint_AsInt:
			v = float64(n.GetAsInt())
		case *metricspb.NumberDataPoint_AsDouble:
			v = n.GetAsDouble()
		default:
			droppedValue.Inc()
			return
		}
		if !full() {
			add("", labels(resource, n.GetAttributes()), v, delta)
		}
	}
	switch d := m.GetData().(type) {
	case *metricspb.Metric_Gauge:
		for _, n := range d.Gauge.GetDataPoints() {
			number(n, false)
		}
	case *metricspb.Metric_Sum:
		for _, n := range d.Sum.GetDataPoints() {
			number(n, isDelta(d.Sum.GetAggregationTemporality()))
		}
	case *metricspb.Metric_Histogram:
		delta := isDelta(d.Histogram.GetAggregationTemporality())
		for _, h := range d.Histogram.GetDataPoints() {
			if full() {
				continue
			}
			l := labels(resource, h.GetAttributes())
			add("_count", l, float64(h.GetCount()), delta)
			add("_sum", l, h.GetSum(), delta)
			below := uint64(0)
			for i, n := range h.GetBucketCounts() {
				if full() {
					break
				}
				le := math.Inf(1)
				if bounds := h.GetExplicitBounds(); i < len(bounds) {
					le = bounds[i]
				}
				below += n
				add("_bucket", l+`,le="`+number64(le)+`"`, float64(below), delta)
			}
		}
	default:
		droppedKind.Inc()
	}
	return out
}

func isDelta(t metricspb.AggregationTemporality) bool {
	return t == metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
}

// seriesName makes a Prometheus name: org.apache.kafka.producer.record.send.total
// becomes firn_client_producer_record_send_total. The prefix keeps clients'
// series apart from the broker's own; of those that begin like it, which are
// about the clients' series, a second '_' does.
func seriesName(otlp string) string {
	name := sanitise(strings.TrimPrefix(otlp, "org.apache.kafka."), maxNameLen)
	if strings.HasPrefix(name, "telemetry") {
		name = "_" + name
	}
	return "firn_client_" + name
}

// sanitise puts '_' for what may not be in a name of Prometheus.
func sanitise(s string, most int) string {
	s = s[:min(len(s), most)]
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, s)
}

// labels writes attributes as labels, sorted: a point's own win over its
// resource's.
func labels(resource, own []*commonpb.KeyValue) string {
	all := map[string]string{}
	for _, attrs := range [][]*commonpb.KeyValue{own, resource} {
		for _, kv := range attrs {
			k := sanitise(kv.GetKey(), maxNameLen)
			switch {
			case k == "", k[0] >= '0' && k[0] <= '9':
				k = "_" + k
			case strings.HasPrefix(k, "__"): // Prometheus's own, such as __name__
				k = "_" + strings.TrimLeft(k, "_")
			}
			if _, have := all[k]; have || len(all) >= maxAttributes || clientLabels[k] {
				continue
			}
			all[k] = attributeText(kv.GetValue())
		}
	}
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(all)) {
		b.WriteByte(',')
		writeLabel(&b, k, all[k])
	}
	return b.String()
}

// clientLabels are the labels that say whose a series is.
var clientLabels = map[string]bool{"client_id": true, "client_instance_id": true, "client_software_name": true, "client_software_version": true, "le": true}

func writeLabel(b *strings.Builder, name, value string) {
	b.WriteString(name)
	b.WriteByte('=')
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(value[:min(len(value), maxValueLen)], "?") {
		switch r {
		case '\\', '"':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		default:
			if unicode.IsControl(r) {
				r = '?'
			}
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
}

func attributeText(v *commonpb.AnyValue) string {
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return x.StringValue
	case *commonpb.AnyValue_IntValue:
		return strconv.FormatInt(x.IntValue, 10)
	case *commonpb.AnyValue_DoubleValue:
		return number64(x.DoubleValue)
	case *commonpb.AnyValue_BoolValue:
		return strconv.FormatBool(x.BoolValue)
	}
	return ""
}

func number64(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

func instanceText(id [16]byte) string { return record.TopicID(id).String() }

// store puts points into an instance's series. An instance that said it ends
// loses all of them; series that it pushed no more for as long as an instance
// may be silent go too.
func (m *Manager) store(id [16]byte, points []point) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.instances[id]
	if e == nil {
		return // evicted meanwhile
	}
	in := e.Value.(*instance)
	if in.terminating {
		for key := range in.series {
			m.drop(in, key)
		}
		return
	}
	now := m.cfg.Now()
	for _, p := range points {
		key := p.name + "{" + p.labels
		s := in.series[key]
		if s == nil {
			switch {
			case len(in.series) >= m.cfg.MaxClientSeries:
				droppedClient.Inc()
				continue
			case m.total >= m.cfg.MaxSeries:
				droppedAll.Inc()
				continue
			case m.bytes+seriesBytes(key) > m.cfg.MaxBytes:
				droppedBytes.Inc()
				continue
			}
			s = &series{}
			in.series[key] = s
			m.total++
			m.bytes += seriesBytes(key)
		}
		if s.seen = now; p.add {
			s.value += p.value
		} else {
			s.value = p.value
		}
	}
	silent := max(minExpiry, 3*in.answer.Interval)
	for key, s := range in.series {
		if now.Sub(s.seen) > silent {
			m.drop(in, key)
		}
	}
}

// drop forgets one series; mu is held.
func (m *Manager) drop(in *instance, key string) {
	delete(in.series, key)
	m.total--
	m.bytes -= seriesBytes(key)
}

// WritePrometheus writes the series of all clients, those of one name
// together, and forgets clients that have been silent too long.
func (m *Manager) WritePrometheus(w io.Writer) {
	m.mu.Lock()
	now := m.cfg.Now()
	lines := make([]string, 0, m.total)
	for e := m.used.Front(); e != nil; {
		next := e.Next()
		in := e.Value.(*instance)
		if now.After(in.expires) {
			m.remove(e)
		} else {
			lines = in.appendLines(lines)
		}
		e = next
	}
	clients, size := m.used.Len(), m.bytes
	m.mu.Unlock()
	slices.Sort(lines)
	var b bytes.Buffer
	for _, l := range lines {
		b.WriteString(l)
	}
	fmt.Fprintf(&b, "firn_client_telemetry_clients %d\nfirn_client_telemetry_series %d\nfirn_client_telemetry_series_bytes %d\n", clients, len(lines), size)
	_, _ = w.Write(b.Bytes()) // an error is that of who reads /metrics, and went away
}

func (in *instance) appendLines(lines []string) []string {
	if len(in.series) == 0 {
		return lines
	}
	var who strings.Builder
	writeLabel(&who, "client_id", in.client.ID)
	who.WriteByte(',')
	writeLabel(&who, "client_instance_id", instanceText(in.id))
	who.WriteByte(',')
	writeLabel(&who, "client_software_name", in.client.SoftwareName)
	who.WriteByte(',')
	writeLabel(&who, "client_software_version", in.client.SoftwareVersion)
	for key, s := range in.series {
		name, own, _ := strings.Cut(key, "{")
		lines = append(lines, name+"{"+who.String()+own+"} "+number64(s.value)+"\n")
	}
	return lines
}
