package group

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A group that is asked for thousands of times in one request is described
// until the answer has its size, and not once more.
func TestDescribeTheSameGroupAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, Config{}, newMemLog())
		m := &consumer{c: c, version: 9, group: "g", meta: strings.Repeat("m", 100<<10)}
		m.join()
		m.sync(map[string]string{m.id: "all"})
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Version, req.Groups = 6, slices.Repeat([]string{"g"}, 5000)
		resp := c.DescribeGroups(req)
		if n := len(resp.AppendTo(nil)); n > maxAnswer+maxAnswer/8 || n < maxAnswer/2 {
			t.Errorf("the answer has %d bytes", n)
		}
		first, last := resp.Groups[0], resp.Groups[len(resp.Groups)-1]
		wantCode(t, "first", first.ErrorCode, nil)
		if len(resp.Groups) != 5000 || len(first.Members) != 1 {
			t.Errorf("%d groups, %d members of the first", len(resp.Groups), len(first.Members))
		}
		wantCode(t, "last", last.ErrorCode, kerr.InvalidRequest)
	})
}
