package api

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// Metadata, versions 0–13.
//
//	 0  no topics means all of them
//	 1  null means all; controller, racks, internal topics
//	 2  cluster id
//	 4  the client says whether topics may be created
//	 5  offline replicas
//	 7  leader epochs (KIP-320)
//	 8  authorized operations (KIP-430)
//	 9  flexible
//	10  topic ids in the reply (KIP-516)
//	11  no authorized operations of the cluster any more (KIP-700)
//	12  topics may be asked for by id
//	13  error code of the whole reply (KIP-1102)
func (a *API) metadata(c *call) {
	req := c.req.Body.(*kmsg.MetadataRequest)
	img := a.deps.Meta.Image()
	if err := metadataRefusal(req); err != nil {
		c.send(refusedMetadata(c, req, err))
		return
	}
	missing := a.toCreate(req, img)
	if len(missing) == 0 {
		a.inPlace(c, func() { a.answerMetadata(c, req, img, nil) })
		return
	}
	a.later(c, func() {
		ctx, cancel := c.deadline(10_000)
		defer cancel()
		failed := a.autoCreate(ctx, missing)
		// As in Kafka the topics are not in this answer yet; they are there when
		// the client, told UNKNOWN_TOPIC_OR_PARTITION, asks again.
		a.answerMetadata(c, req, img, failed)
	})
}

func allTopics(req *kmsg.MetadataRequest) bool {
	return req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
}

// toCreate lists the topics that the request asks for, that do not exist and
// that may be created for it.
func (a *API) toCreate(req *kmsg.MetadataRequest, img *metastore.Image) []string {
	if !a.deps.Config().Topics.AutoCreate || req.Version >= 4 && !req.AllowAutoTopicCreation || allTopics(req) || byID(req) {
		return nil
	}
	var missing []string
	for _, t := range req.Topics {
		if img.Topics[*t.Topic] != nil {
			continue
		}
		if checkTopicName(*t.Topic) != nil || *t.Topic == metadataTopic || isInternal(*t.Topic) && *t.Topic != offsetsTopic || slices.Contains(missing, *t.Topic) {
			continue
		}
		if missing = append(missing, *t.Topic); len(missing) >= a.cfg.MaxPartitionsPerCall {
			break
		}
	}
	return missing
}

// autoCreate makes topics with the defaults and waits until they can be used.
// It gives the errors of those that could not be made.
func (a *API) autoCreate(ctx context.Context, names []string) map[string]error {
	failed := map[string]error{}
	img := a.deps.Meta.Image()
	defaults := a.deps.Config().Topics
	room := a.room(img)
	var specs []metastore.TopicSpec
	for _, name := range names {
		if name == offsetsTopic {
			if err := a.deps.EnsureOffsetsTopic(ctx); err != nil {
				a.failed("the topic for group offsets could not be made", "error", err)
				failed[name] = kerr.LeaderNotAvailable
			}
			continue
		}
		assignment, err := a.place(img, anywhere, defaults.Partitions, defaults.ReplicationFactor)
		if other := collision(img, name); other != "" {
			err = kerr.UnknownTopicOrPartition // as Kafka: it is not made, and nobody says why
		}
		if err == nil {
			err = room.take(1, len(assignment))
		}
		if err != nil {
			failed[name] = err
			continue
		}
		specs = append(specs, metastore.TopicSpec{Name: name, Assignment: assignment})
	}
	if len(specs) == 0 {
		return failed
	}
	results, revision, err := a.deps.Meta.CreateTopics(ctx, specs)
	if err == nil {
		err = a.deps.Partitions.AwaitApplied(ctx, revision)
	}
	if err != nil {
		a.failed("topics could not be created on demand", "topics", len(specs), "error", err)
		for _, s := range specs {
			failed[s.Name] = kerr.LeaderNotAvailable // the client asks again
		}
		return failed
	}
	for i, r := range results {
		if code := codeOf(r.Err); code != 0 && code != kerr.TopicAlreadyExists.Code {
			failed[specs[i].Name] = r.Err
		}
	}
	return failed
}

func (a *API) answerMetadata(c *call, req *kmsg.MetadataRequest, img *metastore.Image, failed map[string]error) {
	resp := response[*kmsg.MetadataResponse](c)
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		b := img.Brokers[id]
		nb := kmsg.NewMetadataResponseBroker()
		nb.NodeID, nb.Host, nb.Port, nb.Rack = int32(id), b.Host, b.Port, rack(b)
		resp.Brokers = append(resp.Brokers, nb)
	}
	resp.ClusterID = &img.ClusterID
	resp.ControllerID = int32(img.Controller)
	resp.AuthorizedOperations = operations32(req.IncludeClusterAuthorizedOperations && req.Version >= 8 && req.Version <= 10, clusterOperations)
	if allTopics(req) {
		for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
			resp.Topics = append(resp.Topics, a.metadataTopic(req, img, img.Topics[name]))
		}
	} else {
		a.askedTopics(req, resp, img, failed)
	}
	c.send(resp)
}

// metadataRefusal says why a whole request is refused. Before version 12 a
// topic has a name and no id. Kafka fails internally where a topic has neither,
// and answers with the code of that.
func metadataRefusal(req *kmsg.MetadataRequest) error {
	for _, t := range req.Topics {
		switch {
		case req.Version < 12 && (t.Topic == nil || t.TopicID != [16]byte{}):
			return kerr.InvalidRequest
		case t.Topic == nil && t.TopicID == [16]byte{}:
			return kerr.UnknownServerError
		}
	}
	return nil
}

// refusedMetadata answers every topic of a request with err, and nothing else.
func refusedMetadata(c *call, req *kmsg.MetadataRequest, err error) *kmsg.MetadataResponse {
	resp := response[*kmsg.MetadataResponse](c)
	resp.ControllerID, resp.AuthorizedOperations, resp.ErrorCode = -1, unset, codeOf(err)
	for _, t := range req.Topics {
		out := kmsg.NewMetadataResponseTopic()
		name := ""
		if t.Topic != nil {
			name = *t.Topic
		}
		out.Topic, out.TopicID, out.AuthorizedOperations, out.ErrorCode = &name, t.TopicID, unset, codeOf(err)
		resp.Topics = append(resp.Topics, out)
	}
	return resp
}

// byID says whether a request's topics are those of its ids: once there is
// one, names do not count.
func byID(req *kmsg.MetadataRequest) bool {
	return slices.ContainsFunc(req.Topics, func(t kmsg.MetadataRequestTopic) bool { return t.TopicID != [16]byte{} })
}

// askedTopics answers the topics that the request names, each once: those that
// exist after ids and before names of which nothing is known.
func (a *API) askedTopics(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse, img *metastore.Image, failed map[string]error) {
	ids := byID(req)
	seenIDs, seen := map[record.TopicID]bool{}, map[string]bool{}
	var known, unknown []kmsg.MetadataResponseTopic
	for _, asked := range req.Topics {
		id := record.TopicID(asked.TopicID)
		if ids {
			if id.IsZero() || seenIDs[id] {
				continue
			}
			seenIDs[id] = true
			if t := img.TopicIDs[id]; t != nil {
				known = append(known, a.metadataTopic(req, img, t))
				continue
			}
			out := kmsg.NewMetadataResponseTopic()
			out.TopicID, out.ErrorCode, out.AuthorizedOperations = id, kerr.UnknownTopicID.Code, unset
			resp.Topics = append(resp.Topics, out)
			continue
		}
		name := *asked.Topic
		if seen[name] {
			continue
		}
		seen[name] = true
		if t := img.Topics[name]; t != nil {
			known = append(known, a.metadataTopic(req, img, t))
			continue
		}
		out := kmsg.NewMetadataResponseTopic()
		out.Topic, out.IsInternal = &name, isInternal(name)
		out.AuthorizedOperations = operations32(req.IncludeTopicAuthorizedOperations, topicOperations)
		out.ErrorCode = codeOf(cmp.Or(checkTopicName(name), failed[name], error(kerr.UnknownTopicOrPartition)))
		unknown = append(unknown, out)
	}
	resp.Topics = append(append(resp.Topics, known...), unknown...)
}

func (a *API) metadataTopic(req *kmsg.MetadataRequest, img *metastore.Image, t *metastore.Topic) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.Topic, out.TopicID, out.IsInternal = &t.Name, t.ID, t.Internal
	out.AuthorizedOperations = operations32(req.IncludeTopicAuthorizedOperations, topicOperations)
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		out.Partitions[i] = a.metadataPartition(img, t, &t.Partitions[i])
	}
	return out
}

// metadataPartition describes one partition as clients are to see it.
func (a *API) metadataPartition(img *metastore.Image, t *metastore.Topic, p *metastore.Partition) kmsg.MetadataResponseTopicPartition {
	po := kmsg.NewMetadataResponseTopicPartition()
	po.Partition, po.Leader, po.LeaderEpoch = int32(p.ID), int32(p.Leader), int32(p.Epoch)
	po.Replicas, po.ISR = brokerIDs(p.Replicas), brokerIDs(p.ISR)
	po.OfflineReplicas = []int32{}
	for _, r := range p.Replicas {
		if _, ok := img.Brokers[r]; !ok {
			po.OfflineReplicas = append(po.OfflineReplicas, int32(r))
		}
	}
	if _, alive := img.Brokers[p.Leader]; !alive || !a.serves(t, p) {
		po.Leader = -1
		po.ErrorCode = kerr.LeaderNotAvailable.Code
	}
	return po
}

// serves says whether a partition that this broker leads is open: a client
// that was told of a leader must not be turned away by it.
func (a *API) serves(t *metastore.Topic, p *metastore.Partition) bool {
	if p.Leader != a.cfg.BrokerID {
		return true
	}
	_, err := a.lead(t, int32(p.ID))
	return err == nil
}

func brokerIDs(in []record.BrokerID) []int32 {
	out := make([]int32, len(in))
	for i, id := range in {
		out[i] = int32(id)
	}
	return out
}

// rack gives a broker's rack as the protocol wants it: null for none.
func rack(b metastore.Broker) *string {
	if b.Rack == "" {
		return nil
	}
	return &b.Rack
}
