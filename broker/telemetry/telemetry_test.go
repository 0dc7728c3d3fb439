package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/test/firntest"
)

var client = Client{ID: "p\"1", SoftwareName: "apache-kafka-java", SoftwareVersion: "4.3.1", Host: "10.0.0.7", Port: "4711"}

func attr(k, v string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: k, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}}
}

func number(v float64, attrs ...*commonpb.KeyValue) *metricspb.NumberDataPoint {
	return &metricspb.NumberDataPoint{Value: &metricspb.NumberDataPoint_AsDouble{AsDouble: v}, Attributes: attrs}
}

func sum(name string, delta bool, points ...*metricspb.NumberDataPoint) *metricspb.Metric {
	t := metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	if delta {
		t = metricspb.AggregationTemporality_AGGREGATION_TEMPORALITY_DELTA
	}
	return &metricspb.Metric{Name: name, Data: &metricspb.Metric_Sum{Sum: &metricspb.Sum{AggregationTemporality: t, DataPoints: points}}}
}

func gauge(name string, points ...*metricspb.NumberDataPoint) *metricspb.Metric {
	return &metricspb.Metric{Name: name, Data: &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: points}}}
}

func encode(t testing.TB, codec record.Codec, ms ...*metricspb.Metric) []byte {
	t.Helper()
	b, err := proto.Marshal(&metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{
		Resource:     &resourcepb.Resource{Attributes: []*commonpb.KeyValue{attr("client_rack", "r1"), attr("client_id", "forged")}},
		ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: ms}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if b, err = record.Compress(nil, codec, 0, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func subscribed(interval string, metrics string) map[string]map[string]string {
	return map[string]map[string]string{"all": {"metrics": metrics, "interval.ms": interval}}
}

func shown(m *Manager) string {
	var b bytes.Buffer
	m.WritePrometheus(&b)
	return b.String()
}

func wantErr(t *testing.T, what string, got error, want *kerr.Error) {
	t.Helper()
	if want == nil && got != nil || want != nil && !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// The numbers are those that Apache Kafka 4.3.1 gave for these ids when no
// subscription was configured.
func TestSubscriptionIDIsKafkas(t *testing.T) {
	for id, want := range map[[16]byte]int32{
		{1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7}: -574137386,
		{9, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 9}: -708355112,
		{15: 1}: -725132321,
	} {
		got, err := New(Config{}).Get(t.Context(), id, client, 1)
		if err != nil || got.SubscriptionID != want || got.Interval != 5*time.Minute || len(got.Metrics) != 0 || got.Instance != id {
			t.Errorf("%x: %+v, %v, want id %d", id, got, err, want)
		}
	}
}

func TestConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		m.SetSubscriptions(subscribed("10000", "org.apache.kafka.producer."))
		ctx, hangUp := context.WithCancel(t.Context())
		a, err := m.Get(ctx, [16]byte{}, client, 1)
		wantErr(t, "first", err, nil)
		if a.Instance == ([16]byte{}) || a.Interval != 10*time.Second || len(a.Metrics) != 1 {
			t.Fatalf("got %+v", a)
		}
		push := func(edit func(*Push)) error {
			p := Push{SubscriptionID: a.SubscriptionID, MaxBytes: 1 << 20, Codec: int8(record.Zstd),
				Metrics: encode(t, record.Zstd, sum("org.apache.kafka.producer.record.send.total", true, number(3, attr("topic", "a\nb"))))}
			edit(&p)
			return m.Push(ctx, a.Instance, client, 1, p)
		}
		plain := func(*Push) {}
		_, err = m.Get(ctx, a.Instance, client, 1)
		wantErr(t, "asked again at once", err, kerr.ThrottlingQuotaExceeded)
		wantErr(t, "first push", push(plain), nil)
		wantErr(t, "second push at once", push(plain), kerr.ThrottlingQuotaExceeded)
		time.Sleep(10 * time.Second)
		wantErr(t, "second push", push(plain), nil)
		const line = `firn_client_producer_record_send_total{client_id="p\"1",client_instance_id="`
		out := shown(m)
		if !strings.Contains(out, line) || !strings.Contains(out, `,client_rack="r1",topic="a\nb"} 6`+"\n") || strings.Contains(out, "forged") {
			t.Errorf("two deltas of 3 are not shown as 6:\n%s", out)
		}
		time.Sleep(10 * time.Second)
		wantErr(t, "foreign subscription", push(func(p *Push) { p.SubscriptionID++ }), kerr.UnknownSubscriptionID)
		_, err = m.Get(ctx, a.Instance, client, 1)
		wantErr(t, "asked again after that", err, nil)
		time.Sleep(10 * time.Second)
		wantErr(t, "codec", push(func(p *Push) { p.Codec = 5 }), kerr.UnsupportedCompressionType)
		time.Sleep(10 * time.Second)
		wantErr(t, "negative codec", push(func(p *Push) { p.Codec = -1 }), kerr.UnsupportedCompressionType)
		time.Sleep(10 * time.Second)
		wantErr(t, "too large", push(func(p *Push) { p.MaxBytes = 3 }), kerr.TelemetryTooLarge)
		time.Sleep(10 * time.Second)
		wantErr(t, "no metrics", push(func(p *Push) { p.Codec, p.Metrics = 0, []byte("\x0a\xff") }), kerr.InvalidRecord)
		wantErr(t, "terminating", push(func(p *Push) { p.Terminating = true }), nil)
		if out := shown(m); strings.Contains(out, "send_total") {
			t.Errorf("a client that ended is still shown:\n%s", out)
		}
		wantErr(t, "after the end", push(plain), kerr.InvalidRequest)
		wantErr(t, "reserved id", m.Push(ctx, [16]byte{15: 1}, client, 1, Push{}), kerr.InvalidRequest)
		hangUp()
		synctest.Wait()
		if out := shown(m); !strings.Contains(out, "firn_client_telemetry_clients 0\n") {
			t.Errorf("a client whose connection ended is still known:\n%s", out)
		}
	})
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		m.SetSubscriptions(subscribed("30000", "*"))
		a, _ := m.Get(t.Context(), [16]byte{7}, client, 1)
		if err := m.Push(t.Context(), a.Instance, client, 1, Push{SubscriptionID: a.SubscriptionID, MaxBytes: 1 << 20, Metrics: encode(t, record.None, gauge("x", number(1)))}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(90 * time.Second)
		if !strings.Contains(shown(m), "firn_client_x{") {
			t.Error("gone before three intervals")
		}
		time.Sleep(time.Second)
		if out := shown(m); strings.Contains(out, "firn_client_x{") || !strings.Contains(out, "clients 0") {
			t.Errorf("still there after three intervals:\n%s", out)
		}
	})
}

// A changed subscription is answered at once, and pushes for the old one are
// refused; series go on.
func TestSubscriptionChanges(t *testing.T) {
	m := New(Config{})
	m.SetSubscriptions(subscribed("1000", "a"))
	old, _ := m.Get(t.Context(), [16]byte{1}, client, 1)
	push := Push{SubscriptionID: old.SubscriptionID, MaxBytes: 1 << 20, Metrics: encode(t, record.Gzip, sum("a", false, number(2))), Codec: 1}
	wantErr(t, "push", m.Push(t.Context(), old.Instance, client, 1, push), nil)
	m.SetSubscriptions(subscribed("1000", "a"))
	_, err := m.Get(t.Context(), old.Instance, client, 1)
	wantErr(t, "unchanged", err, kerr.ThrottlingQuotaExceeded)
	m.SetSubscriptions(map[string]map[string]string{
		"1": {"metrics": "b , a", "interval.ms": "2000", "match": "client_id=p.1,client_source_port=4711"},
		"2": {"metrics": "c", "interval.ms": "500"},
		"3": {"metrics": "d", "match": "client_software_name=apache"}, // not all of it
		"4": {"metrics": "e", "interval.ms": "99"},
		"5": {"metrics": "f", "match": "client_id=("},
		"6": {"metrics": "g", "match": "colour=red"},
	})
	wantErr(t, "push for the old one", m.Push(t.Context(), old.Instance, client, 1, push), kerr.UnknownSubscriptionID)
	a, err := m.Get(t.Context(), old.Instance, client, 1)
	if err != nil || fmt.Sprint(a.Metrics) != "[a b c]" || a.Interval != 500*time.Millisecond || a.SubscriptionID == old.SubscriptionID {
		t.Errorf("got %+v, %v", a, err)
	}
	if !strings.Contains(shown(m), "} 2\n") {
		t.Error("the series is gone")
	}
}

func TestBounds(t *testing.T) {
	m := New(Config{MaxInstances: 2, MaxClientSeries: 3, MaxSeries: 4})
	m.SetSubscriptions(subscribed("1000", "*"))
	push := func(id byte, n int) {
		t.Helper()
		a, err := m.Get(t.Context(), [16]byte{id}, client, uint64(id))
		if err != nil {
			t.Fatal(err)
		}
		var points []*metricspb.NumberDataPoint
		for i := range n {
			points = append(points, number(1, attr("i", fmt.Sprint(i))))
		}
		if err := m.Push(t.Context(), a.Instance, client, uint64(id), Push{SubscriptionID: a.SubscriptionID, MaxBytes: 1 << 20, Metrics: encode(t, record.LZ4, gauge("g", points...)), Codec: 3}); err != nil {
			t.Fatal(err)
		}
	}
	one, all := droppedClient.Get(), droppedAll.Get()
	push(1, 5)
	push(2, 2)
	if got := strings.Count(shown(m), "firn_client_g{"); got != 4 || droppedClient.Get()-one != 2 || droppedAll.Get()-all != 1 {
		t.Errorf("%d series, %d and %d dropped", got, droppedClient.Get()-one, droppedAll.Get()-all)
	}
	push(3, 1) // the first is the longest silent
	if got := strings.Count(shown(m), "firn_client_g{"); got != 2 || len(m.instances) != 2 || m.total != 2 {
		t.Errorf("%d series of %d clients, %d counted", got, len(m.instances), m.total)
	}
}

func TestHistogram(t *testing.T) {
	total := 7.5
	points, err := parse(Push{MaxBytes: 1 << 20, Metrics: encode(t, record.None, &metricspb.Metric{Name: "h", Data: &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{
		DataPoints: []*metricspb.HistogramDataPoint{{Count: 4, Sum: &total, BucketCounts: []uint64{1, 3}, ExplicitBounds: []float64{2}}},
	}}})}, everything)
	var got []string
	for _, p := range points {
		got = append(got, fmt.Sprint(p.name, p.labels, " ", p.value))
	}
	want := `firn_client_h_count,client_rack="r1" 4;firn_client_h_sum,client_rack="r1" 7.5;firn_client_h_bucket,client_rack="r1",le="2" 1;firn_client_h_bucket,client_rack="r1",le="+Inf" 4`
	if err != nil || strings.Join(got, ";") != want {
		t.Errorf("got %s, %v", strings.Join(got, ";"), err)
	}
}

// Small bytes must not become much memory: neither by their codec nor by
// being decoded.
func TestPushOfMany(t *testing.T) {
	zeros, err := record.Compress(nil, record.Zstd, 0, make([]byte, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(Push{MaxBytes: 1 << 20, Codec: 4, Metrics: zeros}, everything); err == nil {
		t.Error("64 MiB of a push of at most 1 MiB are taken")
	}
	many := bytes.Repeat([]byte{0x0a, 0x00}, 1<<20) // a million empty ResourceMetrics
	if _, err := parse(Push{MaxBytes: 1 << 20, Metrics: many}, everything); !errors.Is(err, errTooMany) {
		t.Errorf("got %v", err)
	}
}

// checkShown reads what is shown as Prometheus would. It gives the series.
func checkShown(t *testing.T, m *Manager) map[string]float64 {
	t.Helper()
	text := shown(m)
	values, err := firntest.ParseMetrics(text)
	if err != nil {
		t.Errorf("not of Prometheus's text format: %v", err)
	}
	for series := range values {
		if !strings.HasPrefix(series, "firn_client_") {
			t.Errorf("a client made the series %s", series)
		}
	}
	return values
}

// Whatever clients call their metrics and labels, what is shown can be read,
// and nobody takes the name of another's series.
func TestNamesOfClients(t *testing.T) {
	m := New(Config{})
	m.SetSubscriptions(subscribed("1000", "*"))
	hostile := []string{"", "a", "a.b", "a_b", "A-b", "a{x=\"1\"} 1\n", "\n", "é\xff", "__name__", "__name__\x00", "_", "9", "le", "client.id", "client_id", "client-id",
		"telemetry.clients", "telemetry_series", "telemetry.pushes.total", "telemetry_refused_total", strings.Repeat("x", 1000), "\\", "\"", "a\tb\r\x00c", "job", "quantile"}
	var all []*metricspb.Metric
	for _, name := range hostile {
		var own []*metricspb.NumberDataPoint
		for i, label := range hostile {
			own = append(own, number(float64(i), attr(strings.ToValidUTF8(label, "?"), strings.ToValidUTF8(name, "?")), attr("z"+fmt.Sprint(i), cutLabel(label))))
		}
		name = strings.ToValidUTF8(name, "?")
		all = append(all, gauge(name, own...), gauge("org.apache.kafka."+name, own[0]), sum("org.apache.kafka."+name+"_total", true, own[0]),
			&metricspb.Metric{Name: name, Data: &metricspb.Metric_Histogram{Histogram: &metricspb.Histogram{DataPoints: []*metricspb.HistogramDataPoint{
				{Count: 4, BucketCounts: []uint64{1, 2, 3}, ExplicitBounds: []float64{1, 1}}, {Count: 4, BucketCounts: []uint64{1}, ExplicitBounds: []float64{math.NaN()}},
			}}}})
	}
	all = append(all, gauge("values", number(math.NaN(), attr("v", "1")), number(math.Inf(1), attr("v", "2")), number(math.Inf(-1), attr("v", "3")), number(math.Copysign(0, -1), attr("v", "4"))))
	for i, name := range hostile {
		c := Client{ID: strings.Repeat(name, 50), SoftwareName: name, SoftwareVersion: name}
		id := [16]byte{byte(i + 1)}
		a, err := m.Get(t.Context(), id, c, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Push(t.Context(), id, c, 1, Push{SubscriptionID: a.SubscriptionID, MaxBytes: 1 << 20, Metrics: encode(t, record.None, all...)}); err != nil {
			t.Fatal(err)
		}
	}
	values := checkShown(t, m)
	if len(values) < 1000 {
		t.Errorf("only %d series: the test did not test much", len(values))
	}
	for series := range values {
		if name, _, forClient := strings.Cut(series, "{"); forClient && strings.HasPrefix(name, "firn_client_telemetry_") {
			t.Errorf("a client's series %s has a name of the broker's", series)
		}
	}
}

// cutLabel makes a label's value that is cut in the middle of a letter.
func cutLabel(s string) string { return strings.ToValidUTF8(s, "?") + strings.Repeat("é", 150) }

// What clients can make a broker keep is bounded in bytes, with names and
// labels as long as they may be and clients that never come back.
func TestMemoryOfClients(t *testing.T) {
	const limit = 512 << 10
	m := New(Config{MaxBytes: limit})
	m.SetSubscriptions(subscribed("1000", "*"))
	long := strings.Repeat("\"", 30_000)
	var points []*metricspb.NumberDataPoint
	for i := range 100 {
		p := number(1)
		for j := range 20 {
			p.Attributes = append(p.Attributes, attr(fmt.Sprintf("%s%d", strings.Repeat("k", 190), j), fmt.Sprintf("%d%s", i, strings.Repeat("\"", 190))))
		}
		points = append(points, p)
	}
	bytes := encode(t, record.Zstd, gauge("g", points...))
	dropped := droppedBytes.Get()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 60 {
		c := Client{ID: long + fmt.Sprint(i), SoftwareName: strings.Clone(long), SoftwareVersion: strings.Clone(long), Host: "h", Port: "1"}
		id := [16]byte{1, byte(i), byte(i >> 8)}
		a, err := m.Get(t.Context(), id, c, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Push(t.Context(), id, c, 1, Push{SubscriptionID: a.SubscriptionID, MaxBytes: 1 << 20, Codec: 4, Metrics: bytes}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 3*limit {
		t.Errorf("%d bytes are kept for 60 clients, the limit is %d", grown, limit)
	}
	if m.bytes > limit || m.bytes <= 0 {
		t.Errorf("%d bytes are counted", m.bytes)
	}
	if droppedBytes.Get() == dropped {
		t.Error("nothing was dropped")
	}
	checkShown(t, m)
	for e := m.used.Front(); e != nil; e = m.used.Front() {
		m.remove(e)
	}
	if m.bytes != 0 || m.total != 0 {
		t.Errorf("%d bytes and %d series are counted when there are none", m.bytes, m.total)
	}
}

// A push of few bytes cannot make many labels: each point has its resource's
// labels too.
func TestPointsOfOnePush(t *testing.T) {
	var attrs []*commonpb.KeyValue
	for i := range maxAttributes {
		attrs = append(attrs, attr(fmt.Sprintf("%s%d", strings.Repeat("k", 190), i), strings.Repeat("v", 200)))
	}
	points := make([]*metricspb.NumberDataPoint, 60_000)
	for i := range points {
		points[i] = number(1)
	}
	b, err := proto.Marshal(&metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{
		Resource: &resourcepb.Resource{Attributes: attrs}, ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: []*metricspb.Metric{gauge("g", points...)}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := parse(Push{MaxBytes: 1 << 20, Metrics: b}, everything)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; err != nil || grown > 128<<20 {
		t.Errorf("%d bytes allocated for %d points of %d bytes, %v", grown, len(got), len(b), err)
	}
}

var everything = []string{"*"}

// Only what was asked for is kept.
func TestOnlyWhatIsAskedFor(t *testing.T) {
	m := New(Config{})
	push := func(id byte) {
		t.Helper()
		a, err := m.Get(t.Context(), [16]byte{id}, client, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Push(t.Context(), a.Instance, client, 1, Push{SubscriptionID: a.SubscriptionID, MaxBytes: 1 << 20, Metrics: encode(t, record.None, gauge("org.apache.kafka.consumer.lag", number(1)), gauge("other", number(1)))}); err != nil {
			t.Fatal(err)
		}
	}
	push(1)
	if out := shown(m); strings.Contains(out, "{") {
		t.Errorf("nobody subscribed, and shown is\n%s", out)
	}
	m.SetSubscriptions(subscribed("1000", "org.apache.kafka.consumer."))
	push(2)
	if out := shown(m); strings.Count(out, "{") != 1 || !strings.Contains(out, "firn_client_consumer_lag{") {
		t.Errorf("subscribed to the consumer's, and shown is\n%s", out)
	}
}

func FuzzPush(f *testing.F) {
	f.Add(encode(f, record.None, sum("a.b", true, number(1, attr("k", "v"))), gauge("c", number(2))), int8(0))
	f.Add(encode(f, record.Zstd, sum("a.b", true, number(1))), int8(4))
	f.Add(encode(f, record.Snappy, gauge("9", number(1, attr("", "\\\"")))), int8(2))
	f.Fuzz(func(t *testing.T, b []byte, codec int8) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m := New(Config{})
		m.SetSubscriptions(subscribed("1000", "*"))
		a, err := m.Get(context.Background(), [16]byte{1}, client, 1)
		if err != nil {
			t.Fatal(err)
		}
		err = m.Push(context.Background(), a.Instance, client, 1, Push{SubscriptionID: a.SubscriptionID, Codec: codec, Metrics: b, MaxBytes: 64 << 10})
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 100<<20 {
			t.Errorf("%d bytes allocated for %d", grown, len(b))
		}
		if err != nil {
			return
		}
		checkShown(t, m)
	})
}
