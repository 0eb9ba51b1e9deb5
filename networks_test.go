package podcni

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/podcni/podcni/testutils"
)

func TestNetworksAndRejectedAreTheCallers(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t).
		Write("a.conflist", testutils.ListJSON("one", "1.1.0",
			map[string]any{"type": "noop", "capabilities": map[string]bool{"mac": true, "ips": false}},
			map[string]any{"type": "more", "capabilities": map[string]bool{"mac": true, "dns": true}})).
		Write("b.conflist", testutils.List("two", "1.0.0", "noop")).
		Write("c.conf", "{").
		Write("d.conflist", testutils.List("one", "1.0.0", "noop"))
	c := (&fakeExec{}).open(t, WithConfDir(conf.Path()), WithDefaultNetwork("two"))
	want := []Network{
		{
			Name: "one", Path: conf.File("a.conflist"), CNIVersion: "1.1.0",
			Plugins: []string{"noop", "more"}, Capabilities: []string{"dns", "mac"},
		},
		{Name: "two", Path: conf.File("b.conflist"), CNIVersion: "1.0.0", Plugins: []string{"noop"}, Default: true},
	}
	require.Equal(t, want, c.Networks())
	clear(c.Networks()[0].Plugins)
	clear(c.Networks()[0].Capabilities)
	clear(c.Networks())
	require.Equal(t, want, c.Networks())
	require.Equal(t, "two", c.GetDefaultNetworkName())

	rejected := c.Rejected()
	require.Len(t, rejected, 2)
	require.Equal(t, conf.File("c.conf"), rejected[0].Path)
	require.Equal(t, conf.File("d.conflist"), rejected[1].Path)
	require.Equal(t, "one", rejected[1].Network)
	*rejected[0] = ConfigError{}
	clear(rejected)
	require.Equal(t, conf.File("c.conf"), c.Rejected()[0].Path)
}

func TestUpdatePodCIDRsIsInForceWhenItReturns(t *testing.T) {
	t.Parallel()
	c := (&fakeExec{}).open(t, WithConfTemplate(
		`{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"noop","subnet":"{{.PodCIDR}}"}]}`))
	require.ErrorIs(t, c.Status(), ErrNotReady)
	config := func() string { return string(c.networks.Current().Default.List.Bytes) }
	for _, cidr := range []string{"10.1.0.0/24", "10.2.0.0/24"} {
		require.NoError(t, c.UpdatePodCIDRs(t.Context(), []netip.Prefix{netip.MustParsePrefix(cidr)}))
		require.Contains(t, config(), cidr)
		require.NoError(t, c.Status())
	}
	err := c.UpdatePodCIDRs(t.Context(), nil)
	require.ErrorIs(t, err, ErrInvalidConfig)
	var bad *ConfigError
	require.ErrorAs(t, err, &bad)
	require.Equal(t, "WithConfTemplate", bad.Path)
	require.Contains(t, config(), "10.2.0.0/24", "the last one stays")

	require.NoError(t, (&fakeExec{}).open(t).UpdatePodCIDRs(t.Context(), nil), "there is nothing to render")
}

func TestNewRefusesWhatDoesNotParse(t *testing.T) {
	t.Parallel()
	for field, opt := range map[string]Option{
		"WithConfTemplate": WithConfTemplate("{{"),
		"WithConfList[0]":  WithConfList([]byte("{")),
	} {
		c, err := New(WithConfDir(t.TempDir()), opt)
		require.Nil(t, c)
		require.ErrorIs(t, err, ErrInvalidOption)
		require.ErrorIs(t, err, ErrInvalidConfig)
		var bad *FieldError
		require.ErrorAs(t, err, &bad)
		require.Equal(t, field, bad.Field)
	}
}

func TestHungVersionRejectsItsOwnNetworkAlone(t *testing.T) {
	t.Parallel()
	conf := testutils.NewConfDir(t).
		Write("a.conflist", testutils.List("bad", "1.1.0", "hung")).
		Write("b.conflist", testutils.List("good", "1.1.0", "fine"))
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := (&fakeExec{hung: "hung"}).open(t, WithConfDir(conf.Path()))
		require.LessOrEqual(t, time.Since(start), quickTimeout)
		require.Equal(t, "good", c.GetDefaultNetworkName())
		require.NoError(t, c.Reload(t.Context()))
		require.Len(t, c.Rejected(), 1)
		require.Equal(t, "bad", c.Rejected()[0].Network)
		require.ErrorIs(t, c.Rejected()[0], context.DeadlineExceeded)
		require.NoError(t, c.Status())

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, c.Reload(ctx), context.Canceled)
	})
}
