"""Where Super Mario Bros. keeps what in RAM, and the controller's bits: the one list of names.

Addresses are offsets into the 2,048 bytes of RAM (`Machine.ram`, `BatchMachine.ram_before`), plain
integers, so that compiled functions can use them too. They are those of the game's public
disassembly (SMBDIS.ASM); the names are this project's.

Objects are kept as arrays over slots: the player's byte comes first, the enemies' next, so
`ENEMY_X + slot` is an enemy's. An x or y is the left or upper edge of an object, in px; its page
counts 256 px. y grows downwards; page 1 is the screen, page 0 above it, from 2 on below it. Speeds
are signed bytes. Fractions are 1/256 px.
"""

PAGE_PX = 256

# --- the controller: bits of a button byte, as nes-py takes them ------------------------------
BUTTON_RIGHT = 0x80
BUTTON_LEFT = 0x40
BUTTON_DOWN = 0x20
BUTTON_UP = 0x10
BUTTON_START = 0x08
BUTTON_SELECT = 0x04
BUTTON_B = 0x02
BUTTON_A = 0x01
NO_BUTTON = 0x00
BUTTON_BITS = {
    "right": BUTTON_RIGHT,
    "left": BUTTON_LEFT,
    "down": BUTTON_DOWN,
    "up": BUTTON_UP,
    "start": BUTTON_START,
    "select": BUTTON_SELECT,
    "B": BUTTON_B,
    "A": BUTTON_A,
}

# --- time and buttons -------------------------------------------------------------------------
FRAME_COUNTER = 0x09  # frames since the game began, modulo 256; stands while the game is paused
HELD_A_B = 0x0A  # HELD_A and HELD_B: the game reads the controller the other way round
HELD_A, HELD_B = 0x80, 0x40
HELD_UP_DOWN = 0x0B  # up as 0x08, down as 0x04
HELD_LEFT_RIGHT = 0x0C  # left as 0x02, right as 0x01
HELD_A_B_BEFORE = 0x0D  # HELD_A_B of the frame before: a jump needs A newly pressed

# --- the player -------------------------------------------------------------------------------
PLAYER_STATE = 0x0E  # what the game does with Mario, a PLAYER_ value below
PLAYER_FLOAT_STATE = 0x1D  # a FLOAT_ value below
PLAYER_FACING = 0x33  # 1 right, 2 left
PLAYER_DIRECTION = 0x45  # of his movement: 1 right, 2 left
PLAYER_X_SPEED = 0x57  # signed, 1/16 px a frame
PLAYER_X_PAGE = 0x6D
PLAYER_X = 0x86
PLAYER_Y_SPEED = 0x9F  # signed, px a frame
PLAYER_Y_PAGE = 0xB5
PLAYER_Y = 0xCE
PLAYER_X_ON_SCREEN = 0x03AD  # px from the screen's left edge
PLAYER_Y_ON_SCREEN = 0x03B8  # px from the screen's upper edge
PLAYER_X_FRACTION = 0x0400
PLAYER_Y_FRACTION = 0x0416
PLAYER_Y_SPEED_FRACTION = 0x0433  # 1/256 px a frame, to be added to the speed
PLAYER_X_SPEED_FRACTION = 0x0705  # 1/256 of a unit of the speed
PLAYER_SWIMS = 0x0704  # 1 in water
PLAYER_GRAVITY = 0x0709  # 1/256 px a frame and frame: what pulls at him now
PLAYER_GRAVITY_FALLING = 0x070A  # what pulls once he falls, or lets go of A on the way up
PLAYER_CROUCHES = 0x0714  # not 0 while he crouches
PLAYER_SIZE = 0x0754  # 0 tall, 1 small
STATUS = 0x0756  # 0 small, 1 tall, 2 throws fireballs
JUMP_TIMER = 0x0782  # frames; set at the start of a jump or a swimming stroke
RUN_TIMER = 0x0783  # frames for which he stays at running speed after B is let go
INJURY_TIMER = 0x079E  # units of 21 frames; while it runs, enemies cannot hurt him
STAR_TIMER = 0x079F  # units of 21 frames; while it runs, he is invincible

PLAYER_VINE = 0x01  # climbs a vine to another area
PLAYER_SIDE_PIPE = 0x02
PLAYER_DOWN_PIPE = 0x03
PLAYER_FLAG_POLE = 0x04  # slides down the pole
PLAYER_END_OF_STAGE = 0x05  # walks to the castle
PLAYER_DEAD = 0x06
PLAYER_ENTERS = 0x07
PLAYER_NORMAL = 0x08
PLAYER_GROWS = 0x09
PLAYER_SHRINKS = 0x0A
PLAYER_DYING = 0x0B
PLAYER_GETS_FIRE = 0x0C

FLOAT_ON_GROUND = 0
FLOAT_JUMPS = 1  # jumps or swims
FLOAT_FALLS = 2  # walked off an edge
FLOAT_ON_POLE = 3  # on the flag pole, or on a vine

# --- all objects: slots in a row, of enemies, fireballs, blocks and hammers as below -------------
OBJECT_SLOTS = 21

# --- enemies and the like: six slots, the sixth of power-ups, vines and the pole's flag ---------
ENEMY_SLOTS = 6
ENEMY_SLOTS_OF_GOAL = 5  # the slots in which gym-super-mario-bros looks for flag and Bowser
ENEMY_ACTIVE = 0x0F  # 0 empty, 1 used, ENEMY_IS_SECOND_HALF | slot: of the object in that slot
ENEMY_IS_SECOND_HALF = 0x80
ENEMY_TYPE = 0x16  # which object; an ENEMY_ value below
ENEMY_STATE = 0x1E  # by object; of most 0 is its normal state and bit 5 is set when it is beaten
FIRE_BAR_DIRECTION = 0x34  # of a fire bar: 0 clockwise, else counterclockwise
POWER_UP_TYPE = 0x39  # in the sixth slot: 0 mushroom, 1 flower, 2 star, 3 extra life
ENEMY_DIRECTION = 0x46  # 1 right, 2 left
ENEMY_X_SPEED = 0x58  # signed, 1/16 px a frame; of a fire bar the fraction of its angle
ENEMY_X_PAGE = 0x6E
ENEMY_X = 0x87
ENEMY_Y_SPEED = 0xA0  # signed, px a frame; of a fire bar its angle, 0-31 clockwise from up
ENEMY_Y_PAGE = 0xB6
ENEMY_Y = 0xCF
ENEMY_X_FRACTION = 0x0401
ENEMY_Y_FRACTION = 0x0417
ENEMY_Y_SPEED_FRACTION = 0x0434
LIFT_STOOD_ON = 0x03A2  # of a lift: bit 7 clear while Mario stands on it
ENEMY_PLANT_SPEED = ENEMY_X_SPEED  # of a plant: signed, px every other frame
ENEMY_PLANT_MOVES = ENEMY_Y_SPEED  # of a plant: 1 while it comes out or goes back
ENEMY_PLANT_Y_INSIDE = ENEMY_Y_SPEED_FRACTION  # of a plant: its y when it is all inside its pipe
ENEMY_BLOOPER_SPEED = ENEMY_X_SPEED  # of a blooper: px a frame, upwards and to the side it faces
ENEMY_BLOOPER_SINKS = ENEMY_Y_SPEED  # of a blooper: bit 1 set while it sinks
ENEMY_TURNS = (
    ENEMY_Y_SPEED  # of what flies or moves to and fro: bit 1 clear while it moves to the left
)
ENEMY_FRAME_TIMER = 0x078A  # frames; of Bowser: until he jumps
BOWSER_X_SPEED = 0x0365  # signed, px every fourth frame
ENEMY_TIMER = 0x0796  # units of 21 frames: until a shell wakes, a plant moves, a hammer is thrown

ENEMY_GREEN_KOOPA = 0x00
ENEMY_RED_KOOPA_LANDED = 0x01  # a red paratroopa that lost its wings
ENEMY_BUZZY_BEETLE = 0x02
ENEMY_RED_KOOPA = 0x03
ENEMY_HAMMER_BRO = 0x05
ENEMY_GOOMBA = 0x06
ENEMY_BLOOPER = 0x07
ENEMY_BULLET = 0x08  # flies by itself; ENEMY_BULLET_OF_CANNON is shot
ENEMY_GREEN_KOOPA_STANDING = 0x09
ENEMY_GRAY_CHEEP_CHEEP = 0x0A
ENEMY_RED_CHEEP_CHEEP = 0x0B
ENEMY_PODOBOO = 0x0C
ENEMY_PLANT = 0x0D
ENEMY_GREEN_PARATROOPA_HOPPING = 0x0E
ENEMY_RED_PARATROOPA = 0x0F
ENEMY_GREEN_PARATROOPA_FLYING = 0x10
ENEMY_LAKITU = 0x11
ENEMY_SPINY = 0x12
ENEMY_FLYING_CHEEP_CHEEP = 0x14
ENEMY_BOWSER_FLAME = 0x15
ENEMY_FIREWORKS = 0x16
ENEMY_FIRE_BAR_FIRST = 0x1B  # to ENEMY_FIRE_BAR_LAST: by direction and speed, the last is long
ENEMY_FIRE_BAR_LAST = 0x1F
ENEMY_LIFT_FIRST = 0x24  # to ENEMY_LIFT_LAST: balances, lifts up, down, to and fro, that drop
ENEMY_LIFT_LAST = 0x2C
ENEMY_BOWSER = 0x2D
ENEMY_POWER_UP = 0x2E
ENEMY_VINE = 0x2F
ENEMY_FLAG_OF_POLE = 0x30
ENEMY_FLAG = 0x31  # the star flag on the castle behind the pole
ENEMY_SPRING = 0x32
ENEMY_BULLET_OF_CANNON = 0x33
ENEMY_WARP_ZONE = 0x34
ENEMY_RETAINER = 0x35  # who waits behind Bowser

# --- fireballs that Mario throws: two slots ----------------------------------------------------
FIREBALL_SLOTS = 2
FIREBALL_STATE = 0x24  # 0 empty, from FIREBALL_EXPLODES on it explodes
FIREBALL_EXPLODES = 0x80
FIREBALL_X_SPEED = 0x5E
FIREBALL_X_PAGE = 0x74
FIREBALL_X = 0x8D
FIREBALL_Y_SPEED = 0xA6
FIREBALL_Y_PAGE = 0xBC
FIREBALL_Y = 0xD5

# --- blocks that jump when they are hit: four slots, the last two of the pieces of broken ones ---
BLOCK_SLOTS = 4
BLOCK_STATE = 0x26  # 0 empty, 1 jumps, else pieces that fall
BLOCK_X_PAGE = 0x76
BLOCK_X = 0x8F
BLOCK_Y_PAGE = 0xBE
BLOCK_Y = 0xD7

# --- hammers and coins that jump out of blocks: nine slots -------------------------------------
HAMMER_SLOTS = 9
HAMMER_STATE = 0x2A  # 0 empty, 1 a coin, from HAMMER_IS_HAMMER on a hammer, else the coin's score
HAMMER_IS_HAMMER = 0x80
HAMMER_X_SPEED = 0x64
HAMMER_X_PAGE = 0x7A
HAMMER_X = 0x93
HAMMER_Y_SPEED = 0xAC
HAMMER_Y_PAGE = 0xC2
HAMMER_Y = 0xDB

# --- what is drawn -----------------------------------------------------------------------------
OAM_SHADOW = 0x0200  # 64 sprites of 4 bytes, y, tile, attributes, x; copied to the PPU every frame
OAM_SPRITES = 64
SCREEN_LEFT_PAGE = 0x071A
SCREEN_RIGHT_PAGE = 0x071B
SCREEN_LEFT_X = 0x071C
SCREEN_RIGHT_X = 0x071D
SCROLL_IS_LOCKED = 0x0723  # 1 where the screen stands still: warp zones, before an axe

# --- the level -----------------------------------------------------------------------------------
TILE_MAP = 0x0500  # two pages side by side of TILE_ROWS x TILE_COLUMNS cells of 16 px
TILE_MAP_PAGE_BYTES = 0xD0
TILE_ROWS = 13  # the first lies TILE_MAP_TOP px below the screen's upper edge, below the status bar
TILE_COLUMNS = 16
TILE_MAP_TOP = 32
SCENERY_IN_FRONT = 0x0741  # 0 none, 1 water, 2 a wall, SCENERY_LAVA
SCENERY_LAVA = 3  # lava, or water, at the bottom
MAZE_CORRECT = 0x06D9  # checks of a maze with several checks that Mario passed on the right way
MAZE_PASSED = 0x06DA  # checks of it that he passed at all
CHANGE_AREA_TIMER = 0x06DE  # frames until a pipe or a vine leads to the next area
AREA_TYPE = 0x074E  # of the area that is loaded: 0 water, 1 ground, 2 underground, AREA_CASTLE
AREA_CASTLE = 3
AREA_OFFSET = 0x074F  # its number among those of its type, in bits 0-4
NEXT_AREA = 0x0750  # type << 5 | offset of where the NEXT pipe or vine leads: not what is loaded
ENTRANCE_PAGE = 0x0751  # the page of the next area at which Mario enters
ENTRANCE_KIND = 0x0752  # how he enters it: 0 as at a stage's start
LAID_OUT_PAGE = 0x0725  # the column that the game lays out next, or just did, its page
LAID_OUT_COLUMN = 0x0726  # and its column in the page
LAYING_STEP = 0x071F  # steps left of laying out two columns: 4 or 0 once a column is counted
HALFWAY_PAGE = 0x075B  # the page at which the game starts an area after a death

# --- the game ------------------------------------------------------------------------------------
TIMER_FRAMES = 0x077F  # frames until the timers in units of 21 frames count
RANDOM = 0x07A7  # seven bytes, shifted every frame
RANDOM_COUNT = 7
IS_HARDER = 0x06CC  # 1 from 5-3 on: lifts are shorter, some enemies faster
LIVES = 0x075A  # left after this one; 255: game over
STAGE = 0x075C  # from 0, as the status bar counts
COINS = 0x075E  # 0-99
WORLD = 0x075F  # from 0
AREA_NUMBER = 0x0760  # from 0, among the areas of a world: the intro before a pipe counts too
GAME_MODE = 0x0770  # 0 title, 1 play, GAME_MODE_WORLD_OVER, 3 game over
GAME_MODE_WORLD_OVER = 2
GAME_TASK = 0x0772  # of the mode; in play 0 loads the area and GAME_TASK_PLAY plays
GAME_TASK_PLAY = 3
PRE_LEVEL_TIMER = 0x07A0  # units of 21 frames, of the black screen that shows world and lives
SCORE_DIGITS = 0x07DE  # decimal digits, a byte each, the highest first
SCORE_DIGIT_COUNT = 6
COIN_DIGITS = 0x07ED  # of COINS, as the status bar shows them
COIN_DIGIT_COUNT = 2
CLOCK_DIGITS = 0x07F8  # the time left
CLOCK_DIGIT_COUNT = 3
