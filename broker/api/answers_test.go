package api

import (
	"context"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// However many ask for what may be large, few answers are made at one time,
// and what members of a group ask for does not wait for them.
func TestLargeAnswersTakeTurns(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := New(Config{BrokerID: testBroker, LargeAnswers: 1}, shared.deps)
	a.large <- struct{}{} // another is being made
	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Version = 4
	several := kmsg.NewPtrOffsetFetchRequest()
	several.Version = 9
	several.Groups = []kmsg.OffsetFetchRequestGroup{{Group: "a"}, {Group: "b"}}
	for _, req := range []kmsg.Request{configs, several} {
		ctx, hangUp := context.WithCancel(t.Context())
		hangUp()
		if got := <-start(t, ctx, a, "x", req); !got.closed {
			t.Errorf("%T is answered while there is no place: %+v", req, got)
		}
	}
	own := kmsg.NewPtrOffsetFetchRequest()
	own.Version = 9
	own.Groups = several.Groups[:1]
	if got := serve(t, a, "x", own); got.resp == nil {
		t.Errorf("a consumer waits for its offsets: %+v", got)
	}
	<-a.large
	for _, req := range []kmsg.Request{configs, several} {
		if got := serve(t, a, "x", req); got.resp == nil {
			t.Errorf("%T: %+v", req, got)
		}
	}
}

// A request of a few bytes that names the same things again and again gets an
// answer of a bounded size, in which the first of them are whole.
func TestAnswersToManyDuplicatesAreBounded(t *testing.T) {
	if err := shared.ensureOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	topic := makeTopic(t, 1000)
	var all []int32
	for p := range int32(1000) {
		all = append(all, p)
	}
	group := "answers-" + topic.Name
	commitFor(t, group, topic.Name, all...)

	configs := kmsg.NewPtrDescribeConfigsRequest()
	configs.Version, configs.IncludeDocumentation, configs.IncludeSynonyms = 4, true, true
	broker := kmsg.NewDescribeConfigsRequestResource()
	broker.ResourceType, broker.ResourceName = kmsg.ConfigResourceTypeBroker, "7"
	configs.Resources = slices.Repeat([]kmsg.DescribeConfigsRequestResource{broker}, 10_000)

	fetch := kmsg.NewPtrOffsetFetchRequest()
	fetch.Version = 8
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group, rg.Topics = group, nil
	fetch.Groups = slices.Repeat([]kmsg.OffsetFetchRequestGroup{rg}, 5_000)

	for _, req := range []kmsg.Request{configs, fetch} {
		asked := len(req.AppendTo(nil))
		got := serve(t, shared.api, "test", req)
		if got.resp == nil {
			t.Fatalf("%T: no reply", req)
		}
		if n := len(got.resp.AppendTo(nil)); n > maxAnswer+maxAnswer/8 {
			t.Errorf("%T of %d bytes is answered with %d", req, asked, n)
		}
		switch r := got.resp.(type) {
		case *kmsg.DescribeConfigsResponse:
			if len(r.Resources) != len(configs.Resources) || len(r.Resources[0].Configs) < 50 {
				t.Errorf("%d resources, %d configs of the first", len(r.Resources), len(r.Resources[0].Configs))
			}
			wantCode(t, "first", r.Resources[0].ErrorCode, nil)
			wantCode(t, "last", r.Resources[len(r.Resources)-1].ErrorCode, kerr.InvalidRequest)
		case *kmsg.OffsetFetchResponse:
			if len(r.Groups) != len(fetch.Groups) || len(r.Groups[0].Topics[0].Partitions) != len(all) {
				t.Errorf("%d groups", len(r.Groups))
			}
			wantCode(t, "first", r.Groups[0].ErrorCode, nil)
			wantCode(t, "last", r.Groups[len(r.Groups)-1].ErrorCode, kerr.InvalidRequest)
		}
	}
}
