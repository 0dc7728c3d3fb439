package api

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

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
