package api

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// DeleteTopics, versions 1–6.
//
//	1  throttle time
//	4  flexible
//	5  error messages (KIP-599)
//	6  by name or by id (KIP-516)
func (a *API) deleteTopics(c *call) {
	req := c.req.Body.(*kmsg.DeleteTopicsRequest)
	resp := response[*kmsg.DeleteTopicsResponse](c)
	ctx, cancel := c.deadline(req.TimeoutMillis)
	defer cancel()
	asked := req.Topics
	if req.Version < 6 {
		asked = nil
		for i := range req.TopicNames {
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.Topic = &req.TopicNames[i]
			asked = append(asked, t)
		}
	}
	var refused *kerr.Error
	switch {
	case !a.deps.Config().Topics.Delete && req.Version < 3:
		refused = kerr.InvalidRequest // the code below is newer
	case !a.deps.Config().Topics.Delete:
		refused = kerr.TopicDeletionDisabled
	case expired(req.TimeoutMillis):
		refused = kerr.RequestTimedOut
	}
	if refused != nil {
		for _, t := range asked {
			out := kmsg.NewDeleteTopicsResponseTopic()
			out.Topic, out.TopicID, out.ErrorCode = t.Topic, t.TopicID, refused.Code
			resp.Topics = append(resp.Topics, out)
		}
		c.send(resp)
		return
	}
	revision := int64(0)
	for _, d := range plan(a.deps.Meta.Image(), asked) {
		if d.err == nil {
			var rev int64
			if rev, d.err = a.deps.Meta.DeleteTopic(ctx, d.topic.ID); d.err == nil {
				revision = max(revision, rev)
			} else if codeOf(d.err) == kerr.UnknownServerError.Code {
				a.failed("delete topic failed", "topic", d.topic.Name, "error", d.err)
			}
		}
		resp.Topics = append(resp.Topics, d.answer())
	}
	a.awaitDeleted(ctx, revision, resp)
	c.send(resp)
}

// awaitDeleted waits until deleted topics are gone here too.
func (a *API) awaitDeleted(ctx context.Context, revision int64, resp *kmsg.DeleteTopicsResponse) {
	if revision == 0 {
		return
	}
	if err := a.deps.Partitions.AwaitApplied(ctx, revision); err != nil {
		for i := range resp.Topics {
			if resp.Topics[i].ErrorCode == 0 {
				resp.Topics[i].ErrorCode, resp.Topics[i].ErrorMessage = codeOf(err), messageOf(err)
			}
		}
	}
}

// deletion is one topic of a DeleteTopics request.
type deletion struct {
	name  *string
	id    record.TopicID
	topic *metastore.Topic
	err   error
}

func (d *deletion) answer() kmsg.DeleteTopicsResponseTopic {
	out := kmsg.NewDeleteTopicsResponseTopic()
	out.Topic, out.TopicID = d.name, d.id
	if d.topic != nil && d.err == nil {
		out.Topic, out.TopicID = &d.topic.Name, d.topic.ID
	}
	out.ErrorCode, out.ErrorMessage = codeOf(d.err), messageOf(d.err)
	return out
}

// plan finds what is to be deleted. Names, ids, and names of those ids that
// come more than once are refused, once each.
func plan(img *metastore.Image, asked []kmsg.DeleteTopicsRequestTopic) []*deletion {
	var out []*deletion
	byName, byID := map[string]*deletion{}, map[record.TopicID]*deletion{}
	for _, t := range asked {
		id := record.TopicID(t.TopicID)
		d := &deletion{name: t.Topic, id: id}
		switch {
		case t.Topic == nil && id.IsZero():
			d.err = fail(kerr.InvalidRequest, "neither a topic name nor an id is given")
		case t.Topic != nil && !id.IsZero():
			d.err = fail(kerr.InvalidRequest, "both a topic name and an id are given")
		case t.Topic != nil:
			if have := byName[*t.Topic]; have != nil {
				have.err = fail(kerr.InvalidRequest, "the request names the topic more than once")
				continue
			}
			byName[*t.Topic] = d
			if d.topic = img.Topics[*t.Topic]; d.topic == nil {
				d.err = kerr.UnknownTopicOrPartition
			}
		default:
			if have := byID[id]; have != nil {
				have.err = fail(kerr.InvalidRequest, "the request names the topic id more than once")
				continue
			}
			byID[id] = d
			if d.topic = img.TopicIDs[id]; d.topic == nil {
				d.err = kerr.UnknownTopicID
			}
		}
		if d.err == nil && d.topic.Internal {
			d.err = fail(kerr.InvalidTopicException, "topic %s is internal and cannot be deleted", d.topic.Name)
		}
		out = append(out, d)
	}
	for _, d := range byName {
		if d.topic == nil || byID[d.topic.ID] == nil || d.err != nil {
			continue
		}
		again := byID[d.topic.ID]
		d.id, d.err = d.topic.ID, fail(kerr.InvalidRequest, "the request names the topic by its id too")
		out = slices.DeleteFunc(out, func(o *deletion) bool { return o == again })
	}
	return out
}
