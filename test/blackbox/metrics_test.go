package blackbox

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	metricspb "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/test/firntest"
)

// metrics reads all of /metrics as Prometheus would, strictly.
func metrics(t *testing.T, b *firntest.Broker) map[string]float64 {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTP + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	values, err := firntest.ParseMetrics(string(text))
	if err != nil {
		t.Fatalf("/metrics is not of Prometheus's text format: %v", err)
	}
	return values
}

// What a broker that has worked shows on /metrics can be read, with metrics in
// it that a client pushed under names which mean harm.
func TestMetricsCanBeRead(t *testing.T) {
	b := firntest.Start(t)
	works(t, b, "a.topic-with_all")
	committed := kadm.Offsets{}
	committed.AddOffset("a.topic-with_all", 0, 1, -1)
	ctx, cancel := firntest.Context(t)
	defer cancel()
	cl := b.Client(kgo.ClientID("client\"\n\\"))
	adm := kadm.NewClient(cl)
	if err := adm.CommitAllOffsets(ctx, "group\n\"", committed); err != nil {
		t.Fatal(err)
	}
	before := metrics(t, b)
	if len(before) < 200 {
		t.Errorf("only %d series", len(before))
	}

	alter := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeClientMetrics, "all"
	r.Configs = []kmsg.IncrementalAlterConfigsRequestResourceConfig{{Name: "metrics", Value: kmsg.StringPtr("*")}}
	alter.Resources = append(alter.Resources, r)
	altered, err := alter.RequestWith(ctx, cl)
	if err == nil {
		err = kerr.ErrorForCode(altered.Resources[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	one := b.Client() // telemetry goes over one connection
	shard := one.Broker(1)
	resp, err := shard.Request(ctx, kmsg.NewPtrGetTelemetrySubscriptionsRequest())
	if err != nil {
		t.Fatal(err)
	}
	sub := resp.(*kmsg.GetTelemetrySubscriptionsResponse)
	push := kmsg.NewPtrPushTelemetryRequest()
	push.ClientInstanceID, push.SubscriptionID = sub.ClientInstanceID, sub.SubscriptionID
	push.Metrics = hostileMetrics(t)
	resp, err = shard.Request(ctx, push)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.(*kmsg.PushTelemetryResponse).ErrorCode); err != nil {
		t.Fatal(err)
	}
	pushed := 0
	for series := range metrics(t, b) {
		if strings.Contains(series, "client_instance_id=") {
			pushed++
		}
	}
	if pushed < 10 {
		t.Errorf("%d series of the client are shown", pushed)
	}
}

// hostileMetrics are metrics named like the broker's own, with labels that
// Prometheus keeps to itself.
func hostileMetrics(t *testing.T) []byte {
	t.Helper()
	var all []*metricspb.Metric
	for _, name := range []string{"telemetry.clients", "telemetry_series", "up\n", "firn.wire.accepted.total", "", "a{b=\"c\"} 1\nd"} {
		var points []*metricspb.NumberDataPoint
		for _, label := range []string{"__name__", "le", "client_id", "client_instance_id", "a b", "", "\"", "\n"} {
			value := &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: label + "\"\n\\\x00"}}
			points = append(points, &metricspb.NumberDataPoint{Value: &metricspb.NumberDataPoint_AsInt{AsInt: 1}, Attributes: []*commonpb.KeyValue{{Key: label, Value: value}}})
		}
		all = append(all, &metricspb.Metric{Name: name, Data: &metricspb.Metric_Gauge{Gauge: &metricspb.Gauge{DataPoints: points}}})
	}
	b, err := proto.Marshal(&metricspb.MetricsData{ResourceMetrics: []*metricspb.ResourceMetrics{{ScopeMetrics: []*metricspb.ScopeMetrics{{Metrics: all}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
