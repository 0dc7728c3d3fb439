package firntest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Client gives a franz-go client of the broker, closed with the test.
func (b *Broker) Client(opts ...kgo.Opt) *kgo.Client {
	b.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Kafka)}, opts...)...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(cl.Close)
	return cl
}

// CreateTopic makes a topic; configs are pairs of key and value.
func (b *Broker) CreateTopic(name string, partitions int32, configs ...string) {
	b.t.Helper()
	set := map[string]*string{}
	for i := 0; i+1 < len(configs); i += 2 {
		set[configs[i]] = &configs[i+1]
	}
	ctx, cancel := Context(b.t)
	defer cancel()
	adm := kadm.NewClient(b.Client())
	adm.SetTimeoutMillis(60_000) // thousands of partitions, on a busy machine
	if _, err := adm.CreateTopic(ctx, partitions, 1, set, name); err != nil {
		b.t.Fatalf("create topic %s: %v", name, err)
	}
}

// Context ends a minute from now.
func Context(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), time.Minute)
}

// ReadAll reads [from, end) of a partition with a client of its own, where
// end is the high watermark when it starts.
func (b *Broker) ReadAll(topic string, partition int32, from int64) []*kgo.Record {
	b.t.Helper()
	ctx, cancel := Context(b.t)
	defer cancel()
	recs, err := b.TryReadAll(ctx, topic, partition, from)
	if err != nil {
		b.t.Fatal(err)
	}
	return recs
}

// TryReadAll is ReadAll with the error returned.
func (b *Broker) TryReadAll(ctx context.Context, topic string, partition int32, from int64) ([]*kgo.Record, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Kafka), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	end, ok := ends.Lookup(topic, partition)
	if !ok || end.Err != nil {
		return nil, fmt.Errorf("end of %s-%d: %v (found: %v)", topic, partition, end.Err, ok)
	}
	var recs []*kgo.Record
	for next := from; next < end.Offset; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return recs, fmt.Errorf("%s-%d at offset %d of %d: %w", topic, partition, next, end.Offset, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			recs = append(recs, r)
			next = r.Offset + 1
		})
	}
	return recs, nil
}

// TierPartition is one partition of GET /v1/tier/TOPIC.
type TierPartition struct {
	Partition   int32  `json:"partition"`
	State       string `json:"state"`
	LogStart    int64  `json:"logStart"`
	RemoteStart int64  `json:"remoteStart"`
	RemoteEnd   int64  `json:"remoteEnd"`
	Objects     int    `json:"objects"`
	LocalStart  int64  `json:"localStart"`
	LocalBytes  int64  `json:"localBytes"`
	LogEnd      int64  `json:"logEnd"`
	LastError   string `json:"lastError"`
}

// Tier asks the broker how a topic is tiered.
func (b *Broker) Tier(topic string) ([]TierPartition, error) {
	resp, err := http.Get("http://" + b.HTTP + "/v1/tier/" + topic)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	var v struct {
		Partitions []TierPartition `json:"partitions"`
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET /v1/tier/%s: %s: %s", topic, resp.Status, body)
	}
	return v.Partitions, json.Unmarshal(body, &v)
}

// AwaitCold waits until all of the topic is in the object store and nothing
// of it on local disk.
func (b *Broker) AwaitCold(topic string) {
	b.t.Helper()
	Eventually(b.t, "all of "+topic+" in the object store only", func() error {
		ps, err := b.Tier(topic)
		if err != nil {
			return err
		}
		if len(ps) == 0 {
			return fmt.Errorf("no partition is listed")
		}
		for _, p := range ps {
			if p.RemoteEnd != p.LogEnd || p.LocalBytes != 0 {
				return fmt.Errorf("partition %d: tiered to %d of %d, %d bytes local, last error %q", p.Partition, p.RemoteEnd, p.LogEnd, p.LocalBytes, p.LastError)
			}
		}
		return nil
	})
}
