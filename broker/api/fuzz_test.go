package api

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Whatever decodes is answered, once, without a panic.
func FuzzServe(f *testing.F) {
	for _, v := range wire.Supported() {
		for version := max(v.Min, lowest[v.Key]); version <= v.Max; version++ {
			f.Add(v.Key, version, seed(f, v.Key, version))
		}
	}
	f.Fuzz(serveAnything)
}

var lowest = map[int16]int16{0: 3} // versions that are advertised and refused

func seed(t testing.TB, key, version int16) []byte {
	if sweepTopic == nil {
		sweepTopic = makeTopic(t, 2)
		if err := shared.ensureOffsets(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	return sweepRequests(t, key, version).AppendTo(nil)
}

var served atomic.Int64 // requests that decoded

var narrow *API // changes no metadata, and has groups of its own

func serveAnything(t *testing.T, key, version int16, body []byte) {
	serveBytes(t, key, version, body)
}

// readOnly is metadata that nobody can change.
type readOnly struct{ Metadata }

var errReadOnly = errors.New("read only")

func (readOnly) CreateTopics(context.Context, []metastore.TopicSpec) ([]metastore.CreateResult, int64, error) {
	return nil, 0, errReadOnly
}
func (readOnly) Forget(context.Context, record.BrokerID) (int64, error)     { return 0, errReadOnly }
func (readOnly) AddMember(context.Context, string) error                    { return errReadOnly }
func (readOnly) RemoveMember(context.Context, string) error                 { return errReadOnly }
func (readOnly) DeleteTopic(context.Context, record.TopicID) (int64, error) { return 0, errReadOnly }
func (readOnly) AddPartitions(context.Context, record.TopicID, [][]record.BrokerID, int) (int64, error) {
	return 0, errReadOnly
}
func (readOnly) SetTopicConfigs(context.Context, record.TopicID, func(map[string]string) (map[string]string, error)) (int64, error) {
	return 0, errReadOnly
}

func (readOnly) SetConfigs(context.Context, metastore.ConfigResource, func(map[string]string) (map[string]string, error)) (int64, error) {
	return 0, errReadOnly
}

type failer interface {
	Fatalf(string, ...any)
}

func serveBytes(t failer, key, version int16, body []byte) {
	req, err := wire.DecodeRequest(key, version, body)
	if err != nil {
		return
	}
	if narrow == nil {
		deps := shared.deps
		deps.Meta = readOnly{shared.meta}
		deps.Groups = group.New(group.Config{OffsetsPartitions: 1}, group.Deps{})
		if err := deps.Groups.Load(context.Background(), 0, &memLog{}); err != nil {
			t.Fatalf("groups: %v", err)
		}
		narrow = New(Config{BrokerID: testBroker}, deps)
	}
	served.Add(1)
	before := panics.Get()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan wire.Reply, 2)
	narrow.Serve(ctx, &wire.Request{ClientID: "fuzz", Body: req}, func(r wire.Reply) { done <- r })
	if key == 11 || key == 14 {
		return // may wait for other members, longer than a test can
	}
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	if key == 1 {
		cancel() // ends the long poll
	}
	select {
	case r := <-done:
		if r.Fetch != nil {
			releaseAll(r.Fetch.Spans)
		} else if r.Body != nil {
			decodeOwn(t, r.Body)
		}
	case <-timeout.C:
		t.Fatalf("key %d version %d: no reply", key, version)
	}
	if panics.Get() != before {
		t.Fatalf("key %d version %d: panic", key, version)
	}
}

// decodeOwn says whether a reply can be read back at its own version.
func decodeOwn(t failer, resp kmsg.Response) {
	back := kmsg.ResponseForKey(resp.Key())
	back.SetVersion(resp.GetVersion())
	if err := back.ReadFrom(resp.AppendTo(nil)); err != nil {
		t.Fatalf("%T version %d does not decode: %v", resp, resp.GetVersion(), err)
	}
}

// Requests that are right but for a few bytes.
func TestServeMutatedRequests(t *testing.T) {
	supported := wire.Supported()
	seeds := map[[2]int16][]byte{}
	for _, v := range supported {
		for version := max(v.Min, lowest[v.Key]); version <= v.Max; version++ {
			seeds[[2]int16{v.Key, version}] = seed(t, v.Key, version)
		}
	}
	before, tries := served.Load(), 0
	defer func() {
		if n := served.Load() - before; n < int64(tries/4) {
			t.Errorf("of %d requests only %d were served: the test tries nothing", tries, n)
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		tries++
		v := rapid.SampledFrom(supported).Draw(t, "api")
		version := rapid.Int16Range(max(v.Min, lowest[v.Key]), v.Max).Draw(t, "version")
		body := append([]byte{}, seeds[[2]int16{v.Key, version}]...)
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			if len(body) > 0 {
				body[rapid.IntRange(0, len(body)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
			}
		}
		serveBytes(t, v.Key, version, body)
	})
}
