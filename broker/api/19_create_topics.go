package api

import (
	"errors"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/brokerconfig"
	"github.com/firnlog/firn/broker/topicconfig"
	"github.com/firnlog/firn/metastore"
	"github.com/firnlog/firn/record"
)

// CreateTopics, versions 2–7.
//
//	4  -1 partitions or replicas take the broker's defaults (KIP-464)
//	5  flexible; the reply has partitions, replicas and configs (KIP-525)
//	6  throttling by quota (KIP-599)
//	7  topic ids in the reply (KIP-516)
func (a *API) createTopics(c *call) {
	req := c.req.Body.(*kmsg.CreateTopicsRequest)
	resp := response[*kmsg.CreateTopicsResponse](c)
	if expired(req.TimeoutMillis) {
		for i := range req.Topics {
			out := newCreated(req.Topics[i].Topic)
			out.ErrorCode = kerr.RequestTimedOut.Code
			resp.Topics = append(resp.Topics, out)
		}
		c.send(resp)
		return
	}
	ctx, cancel := c.deadline(req.TimeoutMillis)
	defer cancel()
	img := a.deps.Meta.Image()

	topics, twice := eachOnce(req.Topics, func(t *kmsg.CreateTopicsRequestTopic) string { return t.Topic })
	var specs []metastore.TopicSpec
	var at []int // specs[i] is answered by resp.Topics[at[i]]
	keys := 0    // that specs come to
	room := a.room(img)
	for _, in := range topics {
		out := newCreated(in.Topic)
		spec, err := metastore.TopicSpec{}, error(nil)
		if twice[in.Topic] {
			err = fail(kerr.InvalidRequest, "the request names the topic more than once")
		} else {
			spec, err = a.topicSpec(img, in)
		}
		if errors.Is(err, kerr.PolicyViolation) {
			keys = a.cfg.MaxPartitionsPerCall + 1 // by its partitions alone
		}
		if err == nil {
			err = room.take(1, len(spec.Assignment))
		}
		if err == nil {
			specs, at = append(specs, spec), append(at, len(resp.Topics))
			keys += 1 + len(spec.Configs) + len(spec.Assignment)
			describeCreated(&out, &spec, a.deps.Config())
			if req.ValidateOnly {
				out.TopicID = uuid.New() // as Kafka: of the topic that was not made
			}
		}
		createError(&out, err)
		resp.Topics = append(resp.Topics, out)
	}
	if keys > a.cfg.MaxPartitionsPerCall { // Kafka counts records, and refuses all, the wrong ones too
		for i := range resp.Topics {
			if out := &resp.Topics[i]; !twice[out.Topic] { // that is told whatever else is wrong
				createError(out, fail(kerr.PolicyViolation, "topics, their configs and partitions made by one request must be at most %d together", a.cfg.MaxPartitionsPerCall))
			}
		}
		specs = nil
	}
	if len(specs) > 0 && !req.ValidateOnly {
		results, revision, err := a.deps.Meta.CreateTopics(ctx, specs)
		if err == nil {
			err = a.deps.Partitions.AwaitApplied(ctx, revision)
		}
		if err != nil {
			a.failed("create topics failed", "topics", len(specs), "error", err)
		}
		for i, w := range at {
			out, e := &resp.Topics[w], err
			if i < len(results) {
				if results[i].Err != nil {
					e = results[i].Err
				} else if results[i].Topic != nil {
					out.TopicID = results[i].Topic.ID
				}
			}
			createError(out, e)
		}
	}
	c.send(resp)
}

// newCreated is the answer of a topic of which nothing is known.
func newCreated(name string) kmsg.CreateTopicsResponseTopic {
	out := kmsg.NewCreateTopicsResponseTopic()
	out.Topic, out.NumPartitions, out.ReplicationFactor = name, -1, -1
	out.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
	return out
}

// createError makes out an error, if there is one.
func createError(out *kmsg.CreateTopicsResponseTopic, err error) {
	if err == nil {
		return
	}
	*out = newCreated(out.Topic)
	out.ErrorCode, out.ErrorMessage = codeOf(err), messageOf(err)
}

// topicSpec checks one topic of the request, in the order that Kafka does.
func (a *API) topicSpec(img *metastore.Image, in *kmsg.CreateTopicsRequestTopic) (metastore.TopicSpec, error) {
	spec := metastore.TopicSpec{Name: in.Topic, Internal: isInternal(in.Topic), Configs: map[string]string{}}
	if in.Topic == metadataTopic {
		return spec, fail(kerr.InvalidRequest, "topic %s stands for the metadata, which is not in a topic", in.Topic)
	}
	if in.Topic == offsetsTopic {
		// As the broker makes it, where the client names nothing else: offsets do not go by age.
		spec.Configs["segment.bytes"], spec.Configs["retention.ms"] = strconv.Itoa(a.deps.Config().Groups.OffsetsSegmentBytes), "-1"
	}
	if err := checkTopicName(in.Topic); err != nil {
		return spec, err
	}
	if img.Topics[in.Topic] != nil {
		return spec, fail(kerr.TopicAlreadyExists, "topic %s exists already", in.Topic)
	}
	if other := collision(img, in.Topic); other != "" {
		return spec, fail(kerr.InvalidTopicException, "topic %s collides with the existing topic %s: '.' and '_' are not told apart", in.Topic, other)
	}
	if err := a.createConfigs(in, spec.Configs); err != nil {
		return spec, err
	}
	var err error
	switch {
	case len(in.ReplicaAssignment) > 0:
		spec.Assignment, err = a.manualAssignment(img, in)
	case in.ReplicationFactor < -1 || in.ReplicationFactor == 0:
		err = fail(kerr.InvalidReplicationFactor, "the replication factor must be above 0, or -1 for the default; it is %d", in.ReplicationFactor)
	case in.NumPartitions < -1 || in.NumPartitions == 0:
		err = fail(kerr.InvalidPartitions, "the number of partitions must be above 0, or -1 for the default; it is %d", in.NumPartitions)
	default:
		n, r := in.NumPartitions, in.ReplicationFactor
		if n == -1 {
			n = a.deps.Config().Topics.Partitions
		}
		if r == -1 {
			r = a.deps.Config().Topics.ReplicationFactor
		}
		spec.Assignment, err = a.place(img, anywhere, n, r)
	}
	if want := a.deps.Config().Groups.OffsetsPartitions; err == nil && in.Topic == offsetsTopic && len(spec.Assignment) != int(want) {
		// Which partition holds a group follows from how many there are.
		err = fail(kerr.InvalidPartitions, "topic %s must have %d partitions, the broker's offsets.topic.num.partitions", in.Topic, want)
	}
	return spec, err
}

func (a *API) createConfigs(in *kmsg.CreateTopicsRequestTopic, configs map[string]string) error {
	var null []string
	for _, cfg := range in.Configs {
		if cfg.Value == nil {
			null = append(null, cfg.Name)
			continue
		}
		configs[cfg.Name] = *cfg.Value
	}
	if len(null) > 0 {
		return fail(kerr.InvalidConfig, "configs without a value: %s", strings.Join(null, ", "))
	}
	return a.checkConfigs(nil, configs)
}

// checkConfigs says whether a topic may have the configs next, coming from
// old.
func (a *API) checkConfigs(old, next map[string]string) error {
	t, err := topicconfig.Parse(next, a.deps.Config().TopicDefaults())
	if err != nil {
		return err
	}
	if t.Tiered && a.deps.Tier == nil {
		return &topicconfig.Error{Key: "remote.storage.enable", Reason: "this broker has no object store"}
	}
	return topicconfig.CheckChange(old, next)
}

// manualAssignment checks replicas that are given partition by partition.
func (a *API) manualAssignment(img *metastore.Image, in *kmsg.CreateTopicsRequestTopic) ([][]record.BrokerID, error) {
	if in.ReplicationFactor != -1 {
		return nil, fail(kerr.InvalidRequest, "replicas are assigned by hand, so the replication factor must be -1; it is %d", in.ReplicationFactor)
	}
	if in.NumPartitions != -1 {
		return nil, fail(kerr.InvalidRequest, "replicas are assigned by hand, so the number of partitions must be -1; it is %d", in.NumPartitions)
	}
	out := make([][]record.BrokerID, len(in.ReplicaAssignment))
	want := 0
	seen := map[int32]bool{}
	for _, p := range in.ReplicaAssignment {
		if seen[p.Partition] {
			return nil, fail(kerr.InvalidReplicaAssignment, "partition %d is assigned more than once", p.Partition)
		}
		seen[p.Partition] = true
		replicas, err := a.checkReplicas(img, p.Replicas, want)
		if err != nil {
			return nil, err
		}
		want = len(replicas)
		if p.Partition < 0 || int(p.Partition) >= len(out) {
			return nil, fail(kerr.InvalidReplicaAssignment, "partitions must be numbered from 0 without gaps; there is a %d among %d", p.Partition, len(out))
		}
		out[p.Partition] = replicas
	}
	return out, nil
}

// describeCreated fills in what a created (or validated) topic looks like. The
// values that were set are shown as they were written.
func describeCreated(out *kmsg.CreateTopicsResponseTopic, spec *metastore.TopicSpec, values *brokerconfig.Values) {
	out.NumPartitions = int32(len(spec.Assignment))
	out.ReplicationFactor = int16(len(spec.Assignment[0]))
	for _, v := range topicConfigs(spec.Configs, values) {
		rc := kmsg.NewCreateTopicsResponseTopicConfig()
		rc.Name, rc.Value, rc.Source = v.name, v.value, int8(v.source)
		if set, ok := spec.Configs[v.name]; ok {
			rc.Value = &set
		}
		out.Configs = append(out.Configs, rc)
	}
}
