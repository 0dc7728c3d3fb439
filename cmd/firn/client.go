package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	defaultBrokers = "127.0.0.1:9092"
	pingTimeout    = 10 * time.Second // to find one broker that answers
	adminTimeout   = 30 * time.Second // for one administrative command
)

// addBrokers gives a command the flag that says where the cluster is.
func (a *app) addBrokers(cmd *cobra.Command) *cobra.Command {
	def := defaultBrokers
	if v := a.env("FIRN_BROKERS"); v != "" {
		def = v
	}
	cmd.PersistentFlags().StringVarP(&a.brokers, "brokers", "b", def, "`HOST:PORT` of one or more brokers, separated by commas; FIRN_BROKERS sets it too")
	return cmd
}

func (a *app) seeds() ([]string, error) {
	var seeds []string
	for _, s := range strings.Split(a.brokers, ",") {
		if s = strings.TrimSpace(s); s != "" {
			seeds = append(seeds, s)
		}
	}
	if len(seeds) == 0 {
		return nil, usageError("--brokers is empty: give HOST:PORT of a broker, for example %s", defaultBrokers)
	}
	return seeds, nil
}

// connect makes a client and makes sure that a broker answers.
func (a *app) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	seeds, err := a.seeds()
	if err != nil {
		return nil, err
	}
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.ClientID("firn-cli"),
		kgo.SoftwareNameAndVersion("firn-cli", softwareVersion()),
		kgo.DialTimeout(5 * time.Second),
		kgo.RetryTimeout(15 * time.Second),
		kgo.DisableClientMetrics(),
	}, opts...)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, usageError("%w", err)
	}
	pctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := askAny(pctx, cl, func() kmsg.Request {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{} // only the brokers
		return req
	}); err != nil {
		cl.Close()
		if ctx.Err() != nil {
			return nil, failf("", "stopped before a broker answered")
		}
		return nil, a.unreachable(err)
	}
	return cl, nil
}

// askAny asks all brokers that the command line named at the same time, and
// gives the first answer: one of them may hang. newReq makes a request for each.
func askAny(ctx context.Context, cl *kgo.Client, newReq func() kmsg.Request) (resp kmsg.Response, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		resp kmsg.Response
		err  error
	}
	seeds := cl.SeedBrokers()
	answers := make(chan answer, len(seeds))
	for _, b := range seeds {
		go func() {
			resp, err := b.Request(ctx, newReq())
			answers <- answer{resp, err}
		}()
	}
	for range seeds {
		a := <-answers
		if a.err == nil {
			return a.resp, nil
		}
		if err == nil {
			err = a.err
		}
	}
	return nil, err
}

// softwareVersion is the version in the form that ApiVersions allows
// (KIP-511): letters, digits, dots and dashes.
func softwareVersion() string {
	v := strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '-'
	}, version)
	return strings.Trim(v, ".-")
}

// connectAdmin is connect for commands that only ask and change metadata. The
// context is bounded; done gives everything back.
func (a *app) connectAdmin(ctx context.Context) (_ context.Context, cl *kgo.Client, done func(), err error) {
	cl, err = a.connect(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	return ctx, cl, func() { cancel(); cl.Close() }, nil
}

// admin is connectAdmin for commands for which kadm has the requests.
func (a *app) admin(ctx context.Context) (_ context.Context, adm *kadm.Client, done func(), err error) {
	ctx, cl, done, err := a.connectAdmin(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	return ctx, kadm.NewClient(cl), done, nil
}

// unreachable explains why no broker could be spoken to.
func (a *app) unreachable(err error) error {
	f := &failure{code: exitUnreachable, hint: "is the broker running? start one with: firn start   (or name another with --brokers HOST:PORT)"}
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		f.err = fmt.Errorf("cannot reach a broker at %s: nothing listens there", a.brokers)
	case errors.As(err, &dns):
		f.err = fmt.Errorf("cannot reach a broker at %s: there is no host %q", a.brokers, dns.Name)
		f.hint = "check the name in --brokers or FIRN_BROKERS"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		f.err = fmt.Errorf("cannot reach a broker at %s: no answer in time", a.brokers)
		f.hint = "is that the Kafka address of a broker, and does a firewall let it through?"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.As(err, new(*kgo.ErrFirstReadEOF)), strings.Contains(err.Error(), "invalid large response size"): // kgo has no type for it
		f.err = fmt.Errorf("cannot reach a broker at %s: something listens there, but it does not speak the Kafka protocol", a.brokers)
		f.hint = "is it the HTTP port? Kafka clients need the address that firn start calls Kafka"
	default:
		f.err = fmt.Errorf("cannot reach a broker at %s: %w", a.brokers, err)
		f.hint = "is that the address that firn start calls Kafka?"
	}
	return f
}

// explain turns an error of a request into one that says what to do. What is
// about what: "topic flights", "group g1".
func (a *app) explain(what string, err error, message string) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*failure](err); ok {
		return err
	}
	ke, ok := errors.AsType[*kerr.Error](err)
	if !ok {
		switch {
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			return a.unreachable(err)
		case errors.Is(err, context.DeadlineExceeded):
			return failf("look at the broker's log; it may be starting, or its disk may be slow", "%s: the broker gave no answer in time", what)
		case errors.Is(err, context.Canceled):
			return failf("", "%s: stopped", what)
		}
		return failf("", "%s: %w", what, err)
	}
	text := strings.TrimSuffix(cmp.Or(message, ke.Description), ".")
	if ke == kerr.UnknownTopicOrPartition && text == strings.TrimSuffix(ke.Description, ".") {
		text = "there is none of that name" // the code's own words are about what a broker hosts
	}
	if strings.HasPrefix(text, what) {
		return failf(hintFor(ke), "%s (%s)", text, ke.Message)
	}
	return failf(hintFor(ke), "%s: %s (%s)", what, text, ke.Message)
}

// hintFor says what the user could do about an error code, "" when the error
// says it all.
func hintFor(err *kerr.Error) string {
	switch err {
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID:
		return "list the topics with: firn topic list"
	case kerr.TopicAlreadyExists:
		return "see it with: firn topic describe NAME   (--if-not-exists makes this no error)"
	case kerr.InvalidTopicException:
		return "a name is 1 to 249 letters, digits, dots, dashes and underscores"
	case kerr.InvalidReplicationFactor:
		return "ask for no more copies than there are brokers; see them with: firn cluster info"
	case kerr.InvalidPartitions:
		return "partitions can be added, never removed; see how many there are with: firn topic describe NAME"
	case kerr.GroupIDNotFound, kerr.CoordinatorNotAvailable:
		return "list the groups with: firn group list"
	case kerr.MessageTooLarge:
		return "let the topic take larger ones with: firn topic alter NAME --config max.message.bytes=N"
	case kerr.NonEmptyGroup:
		return "stop its members first; see them with: firn group describe NAME"
	case kerr.GroupSubscribedToTopic:
		return "stop the members that read it first; see them with: firn group describe NAME"
	case kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.RebalanceInProgress:
		return "the group got members in the meantime; see them with: firn group describe NAME"
	case kerr.InvalidConfig:
		return "names and values: firn config describe topic/NAME --all, or docs/topic-configs.md"
	case kerr.PolicyViolation:
		return "the broker is told to refuse this; its configs: firn config describe broker/ID --all"
	case kerr.KafkaStorageError:
		return "the broker's disk or object store failed; its log says more"
	case kerr.UnsupportedVersion:
		return "this broker does not offer that"
	}
	return ""
}

// codeOf is the Kafka error code's name, "" for an error without one.
func codeOf(err error) string {
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		return ke.Message
	}
	return ""
}

// splitPairs reads NAME=VALUE arguments of a repeatable flag.
func splitPairs(flag string, pairs []string) (names []string, values map[string]string, err error) {
	values = map[string]string{}
	for _, p := range pairs {
		k, v, ok := strings.Cut(p, "=")
		if k = strings.TrimSpace(k); !ok || k == "" {
			return nil, nil, usageError("%s %q: write NAME=VALUE", flag, p)
		}
		if _, twice := values[k]; twice {
			return nil, nil, usageError("%s: %s is given twice", flag, k)
		}
		names = append(names, k)
		values[k] = v
	}
	return names, values, nil
}
